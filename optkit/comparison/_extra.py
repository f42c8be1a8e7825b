"""Says what is missing where optkit was installed without its extra `compare`."""

import importlib.util

_NEEDED = ("jinja2", "jsonschema", "matplotlib", "rich", "scipy")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _MISSING:
    raise ModuleNotFoundError(f"optkit.compare needs {', '.join(_MISSING)}: pip install 'optkit[compare]'")
