"""How Sphinx builds the site; see `make docs`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import optkit

project = "optkit"
author = "The optkit authors"
version = release = optkit.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "catalog_pages"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"optkit {version}"
html_show_sphinx = False

# Notebooks are shown with the outputs that they were committed with; the tests run them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Otherwise each attribute of a state would be an object of its own beside the named tuple's.
napoleon_use_ivar = True

# Literal blocks in docstrings are formulas.
highlight_language = "text"
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
python_display_short_literal_types = True
