"""The documentation site: its pages are all reached, its names all documented, and what is assembled of them is sound.

Sphinx builds it in `.ci/run`; what is here needs none. Where it has been built, a browser looks at its pages as well.
"""

import doctest
import importlib
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Values rather than functions and classes; the pages name them in their text.
VALUES = {
    "jaxprop.data.LENGTHS", "jaxprop.data.READERS", "jaxprop.data.augment", "jaxprop.losses.DIVERGENCES",
    "jaxprop.losses.LOSSES",
    "jaxprop.metrics.METRICS", "jaxprop.metrics.TOKENWISE", "jaxprop.metrics.accuracy",
    "jaxprop.metrics.average_precision", "jaxprop.metrics.bytes_per_token", "jaxprop.metrics.infeasible",
    "jaxprop.metrics.mean_absolute_error", "jaxprop.metrics.multilabel_accuracy", "jaxprop.sinks.Record",
}  # fmt: skip


def script():
    spec = importlib.util.spec_from_file_location("make_site", ROOT / "scripts" / "make_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = script()


def listed(path):
    """The pages that a page's lists of links name."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return [page for _, entries in site.lists(path, text) for _, page in entries]


def test_every_page_is_in_the_navigation_and_in_it_once():
    todo, reached = ["docs/index.md"], ["docs/index.md"]
    while todo:
        page = todo.pop()
        if page.endswith("index.md"):
            todo += listed(page)
            reached += listed(page)
    assert sorted(reached) == sorted(site.pages())


def test_the_examples_in_the_script_run():
    ran = doctest.testmod(site)
    assert ran.attempted >= 5
    assert ran.failed == 0


def test_headings_with_links_are_captions_and_text_in_code_is_none():
    text = "# A\n\n- [x](x.md): y\n\n```text\n## No\n- [z](z.md)\n```\n\n## B\n\n- [c](d/c.md)\n"
    assert [*site.lists("docs/index.md", text)] == [("", [("x", "docs/x.md")]), ("B", [("c", "docs/d/c.md")])]


def test_links_lead_to_the_same_place_on_the_site_and_code_stays():
    names = {"docs/a/b.md": "a/b.md", "scripts/BENCHMARKS.md": "results/benchmarks.md"}
    text = (
        "[x](../../scripts/BENCHMARKS.md#plans) [y](https://x.org/z.md) [z](gone.md)\n```python\nf[0](../c.md)\n```\n"
    )
    linked = site.relinked("docs/a/b.md", text, names)
    assert linked == text.replace("../../scripts/BENCHMARKS.md", "../results/benchmarks.md")


def test_files_and_folders_that_pages_link_to_are_shown(tmp_path):
    site.assemble(tmp_path)
    assert "def main" in (tmp_path / "source/docs/examples/gan.py.md").read_text(encoding="utf-8")
    assert "(gan.py.md)" in (tmp_path / "source/docs/examples/index.md").read_text(encoding="utf-8")
    assert (tmp_path / "source/scripts/pictures/report-depth.png").exists()
    assert "```{toctree}" in (tmp_path / "index.md").read_text(encoding="utf-8")


def documented():
    pages = [ROOT / page for page in site.pages()]
    return [name for page in pages for match in site.API.findall(page.read_text("utf-8")) for name in match.split()]


def test_public_names_are_documented_once():
    import jaxprop

    rooms = {f"jaxprop.{room}": importlib.import_module(f"jaxprop.{room}") for room in jaxprop.ROOMS}
    public = {f"{room}.{name}" for room, module in rooms.items() for name in module.__all__}
    public |= {f"jaxprop.{name}" for name in jaxprop.__all__}
    assert len(documented()) == len(set(documented()))
    assert public - set(documented()) == VALUES
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    unnamed = {name for name in VALUES if not re.search(rf"`({re.escape(name)}|{name.rpartition('.')[2]})`", text)}
    assert unnamed == set()


@pytest.mark.parametrize("name", documented())
def test_what_is_documented_has_a_docstring(name):
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute).__doc__
    assert site.directive(name).startswith(".. auto")


def test_every_command_and_option_is_listed():
    from jaxprop.cli.app import BENCH, COMMANDS

    text = site.commands()
    headings = re.findall(r"^## jaxprop (.*)$", text, re.MULTILINE)
    assert headings == [*COMMANDS, *(f"bench {name}" for name in BENCH)]
    train = text.split("## jaxprop train\n")[1].split("\n## ")[0]
    assert "jaxprop train [CONFIG] [KEY=VALUE]... [OPTIONS]" in train
    assert "| `--quiet`, `-q` |" in train
    assert "| `--dist LAUNCHER` | `auto` |" in train


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.org/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.org/a.css">',
        '<img srcset="a.png, https://x.org/b.png 2x">',
        '<p style="background: url(http://x.org/a.png)">',
        "<style>@import 'https://x.org/a.css'</style>",
    ],
)
def test_what_a_page_asks_a_host_for_is_found(page, tmp_path):
    (tmp_path / "a.html").write_text(page)
    assert len([*site.requests(tmp_path)]) == 1


def test_links_for_the_reader_are_no_requests(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="https://x.org">x</a><img src="a.png"><script src="_static/a.js"></script>'
    )
    (tmp_path / "a.css").write_text("/* https://x.org */ a { background: url(data:image/png;base64,x) }")
    assert [*site.requests(tmp_path)] == []


# -- the built pages ------------------------------------------------------------------------------

LOOKED_AT = ("index", "tutorials/command-line", "config-reference", "commands", "api/step", "results/FAULTS")


@pytest.fixture
def built():
    folder = site.SITE / "html"
    if not folder.exists():
        pytest.skip("the site is not built: pip install -e '.[docs]' && python scripts/make_site.py")
    return folder


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_ask_for_nothing_and_do_not_scroll_sideways(built, scheme, width):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        page, asked, said = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for name in LOOKED_AT:
            page.goto((built / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name
            assert dark(page.evaluate("getComputedStyle(document.body).backgroundColor")) == (scheme == "dark")
        page.goto((built / "search.html").as_uri() + "?q=rollback")
        page.wait_for_selector("#search-results li a:has-text('Retraining')")  # results come one by one
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []


def dark(colour):
    return sum(json.loads(f"[{re.search(r'[(](.*)[)]', colour)[1]}]")[:3]) < 300
