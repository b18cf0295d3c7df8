"""`jaxprop bench history`: a table in the terminal, a page, and one sentence for what cannot be drawn."""

import json
from pathlib import Path

import pytest

from tests.bench.documents import EVIL, make_document, make_row, save


@pytest.fixture
def folder(package):
    """Three documents, the last of which is slower, and a file that is none."""
    for i, seconds in enumerate((0.01, 0.01, 0.013)):
        row = make_row(seconds=seconds, seed=i)
        save(
            make_document(row, started=f"2026-11-{i + 1:02}T00:00:00+00:00", commit=f"c{i}"), Path(f"results/{i}.json")
        )
    Path("results/bad.json").write_text("{")
    return Path("results")


def test_a_table_for_each_machine(jaxprop, folder):
    save(make_document(make_row(), kinds=("TPU v4",)), folder / "tpu.json")
    ran = jaxprop("bench", "history", folder)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("skipped: results/bad.json: is cut off or is not JSON (line 1)")
    assert (
        "bench train: devices 1 x NVIDIA H100 80GB HBM3; processor AMD EPYC 9554; cores 16; affinity 0,1; documents: 3"
        in ran.out
    )
    assert "bench train: devices 1 x TPU v4" in ran.out
    step = next(line for line in ran.out.splitlines() if "train: step" in line)
    assert "slower" in step
    assert step.split()[-1] == "▁▁█"


def test_a_page(jaxprop, folder):
    ran = jaxprop("bench", "history", folder, "--html", "page.html")
    assert ran.code == 0
    assert ran.out.endswith("page: page.html\n")
    text = Path("page.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "History of results" in text
    assert "<svg" in text


def test_json_is_one_value_on_stdout(jaxprop, folder):
    ran = jaxprop("bench", "history", folder, "--json", "--html", "page.html")
    found = json.loads(ran.out)
    assert (found["command"], found["run"]) == ("bench history", None)
    assert [one["name"] for one in found["damaged"]] == ["bad.json"]
    (group,) = found["groups"]
    (track,) = group["tracks"]
    assert (group["documents"], track["verdict"]) == (3, "slower")
    assert [one["commit"] for one in track["figures"]] == ["c0", "c1", "c2"]
    assert Path("page.html").is_file()


def test_what_a_document_says_reaches_no_terminal_as_it_is(jaxprop, package):
    for name in "ab":
        save(make_document(make_row(EVIL), kinds=(EVIL,)), Path(f"results/{name}.json"))
    Path("results/\x1b[31m.json").write_text("{")
    ran = jaxprop("bench", "history", "results")
    assert ran.code == 0
    assert "\x1b" not in ran.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nowhere", "nowhere: there is no such folder; give a folder"),
        ("empty", "empty: holds no document of `jaxprop bench` (*.json)"),
        ("results/0.json", "results/0.json: is a file; give a folder"),
        (
            "damaged",
            "damaged: holds no document of `jaxprop bench` (*.json); the first of 1 files: damaged/x.json: is cut",
        ),
        ("results --html page.txt", "--html page.txt: expected a file that ends in .html; write --html page.txt.html"),
        ("results --html none/page.html", "none/page.html cannot be written"),
    ],
)
def test_refused_with_one_sentence(jaxprop, folder, arguments, said):
    Path("empty").mkdir()
    Path("damaged").mkdir()
    Path("damaged/x.json").write_text("{")
    ran = jaxprop("bench", "history", *arguments.split())
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
