"""The site: it builds without warnings, needs no network, and its search finds what people call things."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse

import pytest
from sphinx.search.en import SearchEnglish

import optkit
from optkit.catalog import METHODS

ROOT = pathlib.Path(optkit.__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.slow

# A question, the words that answer it, and the links that lead there from the first page.
QUESTIONS = {
    "which optimizer halves memory": ("another learning rate, a third to a tenth", ["choose.html"]),
    "how do I use Dion with FSDP": (
        "so no device ever holds a whole matrix",
        ["choose.html", "many_devices.html#dion-with-fsdp"],
    ),
    "how do I train without a server": (
        "Workers need not average at all",
        ["many_devices.html"],
    ),
    "is MARS worth it": ("Is MARS worth it?", ["choose.html"]),
    "how do I check my own optimizer": ("names every broken promise", ["your_own.html"]),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", folder / "doctrees"]
    built = subprocess.run([*sphinx, "docs", folder / "html"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return folder / "html"


def pages(site):
    return {str(path.relative_to(site)): path.read_text() for path in site.rglob("*.html")}


def test_every_public_name_is_documented_once(site):
    anchors = [
        name for page in pages(site).values() for name in re.findall(r'<dt class="[^"]*" id="optkit\.([^"]*)"', page)
    ]
    assert sorted(set(anchors)) == sorted(anchors)
    assert {name for name in METHODS if name not in anchors} == set()


def test_nothing_is_loaded_from_a_network(site):
    loaded = {
        address
        for page in pages(site).values()
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page)
        for address in re.findall(r'(?:src|href)="([^"]*)"', tag)
    }
    assert {address for address in loaded if urllib.parse.urlparse(address).netloc} == set()


def test_links_lead_to_pages_and_sections_of_the_site(site):
    broken = set()
    for name, page in pages(site).items():
        if name.startswith("_modules/"):  # listings of code, whose links back are Sphinx's own
            continue
        for address in re.findall(r'<a\b[^>]*href="([^"]*)"', page):
            parsed = urllib.parse.urlparse(address)
            if parsed.netloc or parsed.scheme:
                continue
            target = (site / name).parent / urllib.parse.unquote(parsed.path) if parsed.path else site / name
            section = f'id="{parsed.fragment}"' if parsed.fragment and target.suffix == ".html" else ""
            if not target.exists() or (section and section not in target.read_text()):
                broken.add((name, address))
    assert broken == set()


def test_search_knows_every_name_that_people_use(site):
    text = (site / "searchindex.js").read_text()
    index = json.loads(text[text.index("{") : text.rindex("}") + 1])
    language = SearchEnglish({})
    pages_of = {}
    for words in (index["terms"], index["titleterms"]):
        for word, numbers in words.items():
            pages_of.setdefault(word, set()).update([numbers] if isinstance(numbers, int) else numbers)
    missing = []
    for method in METHODS.values():
        for name in (method.name, *method.also_known_as):
            words = [language.stem(word) for word in language.split(name.lower()) if language.word_filter(word)]
            found = set.intersection(*(pages_of.get(word, set()) for word in words)) if words else set()
            titles = {index["docnames"][number] for number in found}
            if words and not titles & {f"families/{method.family}", "families/tools"}:
                missing.append((method.name, name))
    assert missing == []


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_within_three_clicks(site, question):
    answer, clicks = QUESTIONS[question]
    assert len(clicks) <= 3
    here = "index.html"
    for click in clicks:
        assert f'href="{click}"' in (site / here).read_text(), f"{here} has no link to {click}"
        here = click.partition("#")[0]
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", (site / here).read_text()))
    assert answer in shown


def dump(address):
    """The page as Chromium has it once its scripts have run."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]
    shown = subprocess.run([*command, address], capture_output=True, text=True, check=True, timeout=120)
    return shown.stdout


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="found no Chromium")
@pytest.mark.parametrize("text", ["Lion", "D²", "exact diffusion", "arXiv:2411.10438"])
def test_search_finds_in_a_browser(site, text):
    page = dump(f"file://{site}/search.html?q={urllib.parse.quote(text)}")
    assert re.search(r'<li[^>]*><a href="families/[a-z_]*\.html', page), page[-2000:]
