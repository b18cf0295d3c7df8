"""A document as a page: what is on it, and in headless Chromium that it is drawn, quiet and inert."""

import shutil

import pytest

from jaxprop.bench.render.html import page
from tests.bench.documents import EVIL, device_document, make_document, make_row, train_document

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_plots_tables_environment_and_method():
    text = page(train_document())
    assert text.count("<svg") == 5
    for heading in ("train", "roofline", "Environment", "Method"):
        assert f"<h2>{heading}" in text
    assert "out of memory" in text
    assert "<summary>All figures, with what could be read of the device</summary>" in text
    assert "Not complete" not in text


def test_a_document_that_was_ended_early():
    assert "Not complete: the command was ended before all was measured." in page(make_document(complete=False))
    assert "Nothing was measured." in page(make_document())


def test_no_text_of_a_document_is_markup():
    row = make_row(EVIL, section=EVIL, message=EVIL, facts={"workload": EVIL, "batch": 1})
    text = page(make_document(row, notes=[EVIL], kinds=(EVIL,), versions={"jax": EVIL}, commit=EVIL, started=EVIL))
    assert "<img" not in text
    assert "<script" not in text


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_is_drawn_and_asks_for_nothing(tmp_path, browser, scheme, width):
    (tmp_path / "x.html").write_text(page(device_document()))
    said, asked = [], []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((tmp_path / "x.html").as_uri())
    assert (said, len(asked)) == ([], 1)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    background, line = tab.evaluate(
        "[getComputedStyle(document.documentElement).backgroundColor,"
        " getComputedStyle(document.querySelector('polyline')).stroke]"
    )
    assert (background, line) == {
        "light": ("rgb(255, 255, 255)", "rgb(0, 99, 168)"),
        "dark": ("rgb(20, 23, 28)", "rgb(61, 155, 233)"),
    }[scheme]
    boxes = [one.bounding_box() for one in tab.query_selector_all("svg")]
    assert len(boxes) == 2
    assert all(box["width"] > 300 and box["height"] > 150 for box in boxes)
    context.close()
