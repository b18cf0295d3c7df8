"""The page in headless Chromium: drawn, quiet, inert, and alive while its run is being written."""

import json
import re
import shutil
import threading

import pytest

from jaxprop.report.compare import labels
from jaxprop.report.page import render
from jaxprop.report.payload import payload
from jaxprop.report.read import Reader
from jaxprop.report.serve import LivePage, open_server
from jaxprop.report.sweeps.payload import payload as sweep_payload
from jaxprop.report.sweeps.read import SweepReader
from tests.report.runs import (
    ACTION,
    ALERT,
    EVIL,
    FINDING,
    LR_FIND,
    evil_run,
    lines,
    make_run,
    rows,
    train_records,
)
from tests.run.sweeps import make_sweep

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH: apt-get install chromium")

# Of each canvas: whether it is seen, and how many colours it holds.
COLOURS = """
() => [...document.querySelectorAll("canvas:not(.swatch)")].map((canvas) => {
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(data.buffer)).size;
})
"""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def until(page, expression, seconds=15):
    """Waits for an expression to hold; playwright's own waiting evaluates strings, which the page's policy forbids."""
    for _ in range(20 * seconds):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within {seconds} s: {expression}")


class Visit:
    """A page that has been opened, and everything it said or asked for."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page = self.context.new_page()
        self.said, self.asked, self.dialogs = [], [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", self._dialog)

    def _dialog(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self, url):
        self.page.goto(url)
        until(self.page, "document.documentElement.dataset.drawn")
        return self.page


@pytest.fixture
def visit(browser):
    visits = []

    def make(**options):
        visits.append(Visit(browser, **options))
        return visits[-1]

    yield make
    for one in visits:
        one.context.close()


def page_of(path, *folders):
    runs = [Reader(folder).read() for folder in folders]
    path.write_text(render(payload(runs, labels([(run.name, "runs") for run in runs]))))
    return path.as_uri()


def full_run(folder):
    return make_run(
        folder,
        alerts=[ALERT, ACTION],
        metrics=train_records(spike=60),
        finding=FINDING,
        lr_find=LR_FIND,
        ended="diverged",
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_a_run_is_drawn_and_asks_for_nothing(tmp_path, visit, scheme, width):
    seen = visit(color_scheme=scheme, viewport={"width": width, "height": 900})
    url = page_of(tmp_path / "x.html", full_run(tmp_path / "a"))
    page = seen.open(url)
    assert page.inner_text(".verdict h2").endswith(
        "Gradient spike in layers/1/dense at step 60; the run diverged at step 100."
    )
    assert "optimizer.lr=0.01" in page.inner_text(".verdict")
    assert "sgd, lr 0.1" in page.inner_text(".card")
    titles = [title.inner_text() for title in page.query_selector_all(".chart:not(.own) figcaption b")]
    assert titles == ["Loss", "Accuracy", "Gradient norm", "Learning rate"]
    sections = [heading.inner_text() for heading in page.query_selector_all("section > h2")]
    assert sections == [
        "Over the steps", "Every layer at every step", "Against depth", "Spikes", "Where it stopped being finite",
        "Learning rate search",
    ]  # fmt: skip
    colours = page.evaluate(COLOURS)
    assert len(colours) == 4 + 2 * 4 + 3 + 2 + 1  # curves, maps with their scales, profiles, a spike, the rates
    assert min(colours) > 3
    assert [item.inner_text().split()[0] for item in page.query_selector_all(".chain li")][:3] == [
        "log",
        "dot_general",
        "reduce_sum",
    ]
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    assert (seen.said, seen.asked, seen.dialogs) == ([], [url], [])


def test_names_and_messages_are_inert(tmp_path, visit):
    seen = visit()
    url = page_of(tmp_path / "x.html", evil_run(tmp_path / "a"), evil_run(tmp_path / "b"))
    page = seen.open(url)
    for summary in page.query_selector_all("summary"):
        summary.click()
    for node in page.query_selector_all(".u-over, .field"):
        node.hover(force=True)
    assert EVIL in page.inner_text("#report")
    assert page.query_selector("img") is None
    assert (seen.said, seen.asked, seen.dialogs) == ([], [url], [])


def test_the_policy_stops_what_is_not_the_page_s_own(tmp_path, visit):
    seen = visit()
    page = seen.open(page_of(tmp_path / "x.html", make_run(tmp_path / "a")))
    page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.ran = true";
      document.body.append(script);
      const image = document.createElement("img");
      image.src = "https://example.invalid/x.png";
      document.body.append(image);
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert len([text for text in seen.said if "Content Security Policy" in text]) == 2


def test_a_drag_zooms_all_curves_and_a_double_click_shows_all(tmp_path, visit):
    page = visit().open(page_of(tmp_path / "x.html", full_run(tmp_path / "a")))
    ranges = "() => stage.charts.map((chart) => [chart.scales.x.min, chart.scales.x.max])"
    assert page.evaluate(ranges) == [[1, 100]] * 4
    page.locator(".u-over").nth(1).scroll_into_view_if_needed()
    box = page.locator(".u-over").nth(1).bounding_box()
    page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 30, steps=4)
    page.mouse.up()
    zoomed = page.evaluate(ranges)
    assert zoomed[0] == zoomed[1] == zoomed[2]
    assert zoomed[0] == pytest.approx([1 + 0.25 * 99, 1 + 0.75 * 99], abs=0.5)
    page.locator(".u-over").nth(0).dblclick()
    assert page.evaluate(ranges) == [[1, 100]] * 4


def test_what_is_under_the_pointer_is_told(tmp_path, visit):
    page = visit().open(page_of(tmp_path / "x.html", full_run(tmp_path / "a")))
    box = page.locator(".u-over").nth(0).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 57 / 99, box["y"] + 40)
    assert ALERT["message"] in page.inner_text("#tip")
    page.mouse.move(box["x"] + box["width"] * 61 / 99, box["y"] + 40)
    assert "cut_lr: learning rate x 0.5" in page.inner_text("#tip")
    field = page.locator(".field").nth(0)
    field.scroll_into_view_if_needed()
    box = field.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 50 / 99, box["y"] + box["height"] * 0.9)
    name, step, value = page.inner_text("#tip").splitlines()
    assert (name, step) == ("head", "step 51")
    assert value == "Gradient RMS of the parameters: about 1.3e-4"  # 0.001 / 8
    legends = page.locator(".chart:not(.own) .legend")
    steps = [re.search(r"step\s(\d+)", text).group(1) for text in legends.all_inner_texts()]
    assert steps == ["51", "60", "51", "51"]  # all cursors follow; of the accuracy there are evaluations alone
    page.mouse.move(2, 2)
    assert page.locator("#tip").is_hidden()
    assert "step" not in " ".join(legends.all_inner_texts())


def test_runs_are_overlaid_and_their_maps_chosen(tmp_path, visit):
    seen = visit()
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", alerts=[ALERT], layers=rows(layers=("x", "head")))
    page = seen.open(page_of(tmp_path / "x.html", a, b))
    assert [title.inner_text() for title in page.query_selector_all(".verdict h2")] == [
        "✓a: Healthy: 100 steps without an alert.",
        "✕b: Gradient spike in layers/1/dense at step 60; the run completed all the same.",
    ]
    assert "The best accuracy first. These runs have different layers" in page.inner_text("section")
    assert page.locator(".verdict details", has_text="Time, size and configuration").count() == 2
    titles = [title.inner_text() for title in page.query_selector_all(".chart:not(.own) figcaption b")]
    assert titles == ["Training loss", "Evaluation loss", "Evaluation accuracy", "Gradient norm", "Learning rate"]
    assert page.locator(".names").nth(0).inner_text().split() == [
        "layers/0/dense",
        "layers/1/dense",
        "layers/2/dense",
        "head",
    ]
    page.select_option("select", label="b")
    assert page.locator(".names").nth(0).inner_text().split() == ["x", "head"]
    assert min(page.evaluate(COLOURS)) > 3
    assert seen.said == []


ODD = {
    "one record": {"metrics": train_records(1), "layers": rows(1)},
    "one step with one layer": {"metrics": train_records(1), "layers": [{"step": 1, "layer": "a", "grad_norm": 1.0}]},
    "evaluations alone": {"metrics": [{"step": 5, "split": "eval", "loss": 0.5}], "layers": []},
    "never finite": {"metrics": [{"step": s, "split": "train", "loss": None, "grad_norm": None} for s in range(5)]},
    "negative and zero": {"metrics": [{"step": s, "split": "train", "loss": -s, "grad_norm": 0} for s in range(5)]},
    "enormous": {"metrics": [{"step": s, "split": "train", "loss": 10.0 ** (s * 75)} for s in range(5)]},
    "late steps": {"metrics": train_records(5, first=10**12), "layers": rows(5, first=10**12)},
    "layers that are never finite": {"layers": [{"step": s, "layer": "a", "grad_norm": None} for s in range(9)]},
    "very many layers": {"layers": rows(3, layers=[f"blocks/{i}/{'long_name' * 9}" for i in range(400)])},
    "an alert before and one after all records": {
        "metrics": train_records(9, first=100),
        "layers": rows(9, first=100),
        "alerts": [ALERT, ALERT | {"step": 900, "since": 800}],
    },
    "a rate search that failed": {"lr_find": {"lr": [1e-3, 1e-2], "loss": [None, None], "smoothed": [], "flat": True}},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_are_drawn_without_a_complaint(tmp_path, visit, name):
    seen = visit(viewport={"width": 900, "height": 700})
    page = seen.open(page_of(tmp_path / "x.html", make_run(tmp_path / "a", **ODD[name])))
    for node in page.query_selector_all(".u-over, .field")[:6]:
        node.hover(force=True)
    assert page.inner_text(".verdict h2")
    assert page.evaluate("document.documentElement.scrollWidth") == 900
    assert seen.said == []


def test_many_runs_differ_by_dashes_too(tmp_path, visit):
    run = Reader(make_run(tmp_path / "a", layers=[])).read()
    path = tmp_path / "x.html"
    path.write_text(render(payload([run] * 17, [str(i) for i in range(17)])))
    page = visit().open(path.as_uri())
    strokes = page.evaluate("() => stage.charts[0].series.slice(1).map((s) => `${s.stroke()} ${s.dash}`)")
    assert len(set(strokes)) == 17


def test_a_search_for_the_rate_alone(tmp_path, visit):
    folder = make_run(tmp_path / "a", lr_find=LR_FIND)
    (folder / "metrics.jsonl").unlink()
    (folder / "layers.jsonl").unlink()
    seen = visit()
    page = seen.open(page_of(tmp_path / "x.html", folder))
    assert page.inner_text(".verdict h2").endswith("it suggests 0.02.")
    assert min(page.evaluate(COLOURS)) > 3
    assert seen.said == []


def test_a_live_page_follows_its_run_and_keeps_its_zoom(tmp_path, visit):
    folder = make_run(tmp_path / "a", ended=None)
    reader = Reader(folder)
    source = LivePage(reader.signature, lambda: payload([reader.read()], ["a"]))
    with open_server(source, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            seen = visit()
            page = seen.open(source.url(server.server_port))
            assert "step 100;" in page.inner_text(".verdict h2")
            page.evaluate("() => stage.zoom([20, 80])")
            with open(folder / "metrics.jsonl", "a") as file:
                file.write(lines(train_records(50, first=101)))
            until(page, "document.querySelector('.verdict h2').innerText.includes('step 150;')")
            assert page.evaluate(
                "() => [stage.charts[0].scales.x.min, stage.charts[0].scales.x.max, stage.full[1]]"
            ) == [20, 80, 150]
            drawn = page.evaluate("document.documentElement.dataset.drawn")
            with page.expect_response("**/data.json") as answer:
                pass
            assert answer.value.status in (200, 304)
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.dataset.drawn") == drawn  # nothing new, nothing drawn
            assert page.inner_text("#pulse") == "live"
        finally:
            server.shutdown()
            thread.join()
    until(page, "document.getElementById('pulse').innerText === 'connection lost'")
    assert [text for text in seen.said if "ERR_CONNECTION_REFUSED" not in text] == []


# -- sweeps -----------------------------------------------------------------------------------------


def sweep_page(path, folder):
    path.write_text(render(sweep_payload(SweepReader(folder).read(), path.parent, f"jaxprop train --from {folder}")))
    return path.as_uri()


def full_sweep(folder, name="optimizer.lr", value="{}"):
    """60 settings of two keys with two seeds, some of them lost, and records of the best and the last."""
    grid = [(10 ** (i / 5 - 4), kind) for i in range(15) for kind in ("relu", "gelu", "tanh", EVIL)]
    runs = [
        ({name: value.format(lr) if value != "{}" else lr, "model.activation": kind}, seed, EVIL if lr > 0.05 else lr)
        for lr, kind in grid
        for seed in (0, 1)
    ]
    make_sweep(folder, runs)
    results = json.loads((folder / "results.json").read_text())
    for i, run in enumerate(results["runs"]):
        run["folder"] = f"run-{i}"
        make_run(folder / run["folder"], alerts=[ALERT | {"kind": EVIL}], layers=[])
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_sweep_is_drawn_and_asks_for_nothing(tmp_path, visit, scheme, width):
    seen = visit(color_scheme=scheme, viewport={"width": width, "height": 900})
    url = sweep_page(tmp_path / "x.html", full_sweep(tmp_path / "s"))
    page = seen.open(url)
    sections = [heading.inner_text() for heading in page.query_selector_all("section > h2")]
    assert sections == ["Settings", "Over the steps", "Every key", "Accuracy", "Lost runs", "Alerts by setting"]
    titles = [title.inner_text() for title in page.query_selector_all(".chart figcaption b")]
    assert titles == ["Evaluation accuracy", "Evaluation loss", "Training loss"]
    legend = page.locator(".chart").nth(0).locator(".legend .u-series:visible").all_inner_texts()
    assert len([text for text in legend if text.strip()]) == 8  # the best settings, and neither seeds nor the others
    assert page.locator(".keys td.cell").count() == 60
    assert page.locator(".keys td.best").count() == 1
    assert page.locator(".coordinates path.line").count() == 60
    assert min(page.evaluate(COLOURS)) > 3
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    for summary in page.query_selector_all("summary"):
        summary.click()
    assert page.locator(".ranking tbody tr").count() == 60
    assert page.locator(".ranking a").nth(0).get_attribute("href").startswith("s/run-")
    for node in page.query_selector_all(".u-over, .hit")[:8]:
        node.hover(force=True)
    assert EVIL in page.inner_text("#report")
    assert page.query_selector("img") is None
    assert (seen.said, seen.asked, seen.dialogs) == ([], [url], [])


OVERLAPS = """
() => {
  const boxes = [...document.querySelectorAll(".coordinates text")].map((node) => node.getBoundingClientRect());
  const cross = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
  return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => cross(a, b))).length;
}
"""


@pytest.mark.parametrize("width", [1280, 400])
def test_labels_of_many_long_values_do_not_overlap(tmp_path, visit, width):
    long = "a_value_of_a_name_that_goes_on_and_on_for_a_very_long_time_{}"
    folder = full_sweep(tmp_path / "s", name="model.a_key_with_a_long_name", value=long)
    page = visit(viewport={"width": width, "height": 900}).open(sweep_page(tmp_path / "x.html", folder))
    assert page.evaluate(OVERLAPS) == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = page.locator(".ranking td span[title]", has_text="…").nth(0)
    assert cut.get_attribute("title").startswith("a_value_of_a_name_that_goes_on_and_on_for_a_very_long_time_")


ODD_SWEEPS = {
    "one run": [({"a": 1}, 0, 0.5)],
    "seeds alone": [({}, 0, 0.5), ({}, 1, 0.6)],
    "all lost": [({"a": 1}, 0, "diverged"), ({"a": 2}, 0, "diverged")],
    "enormous figures": [({"a": 10.0**i}, 0, 10.0 ** (20 * i)) for i in range(9)],
    "the largest floats": [({"a": -1e308}, 0, 1e308), ({"a": 0}, 0, 0.0), ({"a": 1e308}, 0, -1e308)],
    "equal figures": [({"a": i}, 0, 0.0) for i in range(3)],
    "keys that some have": [({"a": 1, "b": 2}, 0, 0.5), ({"a": 2}, 0, 0.6), ({"c": [1, {"d": None}]}, 0, 0.7)],
    "many keys": [({f"key_{k}": i for k in range(20)}, 0, i / 9) for i in range(9)],
}


@pytest.mark.parametrize("name", ODD_SWEEPS)
def test_odd_sweeps_are_drawn_without_a_complaint(tmp_path, visit, name):
    seen = visit(viewport={"width": 900, "height": 700})
    page = seen.open(sweep_page(tmp_path / "x.html", make_sweep(tmp_path / "s", ODD_SWEEPS[name])))
    assert page.inner_text(".verdict h2")
    assert page.evaluate("document.documentElement.scrollWidth") == 900
    assert seen.said == []
