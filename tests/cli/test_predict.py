"""`jaxprop predict`: a table, JSON lines, files, exit codes, and readers of the output that leave."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxprop.run import loaded
from jaxprop.tools import predict as tool
from jaxprop.tools.predict import Answer

GOOD = [
    Answer("a.png", {"label": "cat", "probability": 0.75, "top": {"cat": 0.75, "dog": 0.25}}),
    Answer("b.png", {"label": "dog", "probability": 0.6, "top": {"dog": 0.6, "cat": 0.4}}),
]
BAD = Answer("c.png", {}, "is no image")


@pytest.fixture
def answers(monkeypatch):
    """Lets the tool give these batches, and keeps what it was asked for."""
    calls = []

    def install(*batches):
        monkeypatch.setattr(loaded, "load", lambda run, **options: calls.append((str(run), options)) or "loaded")
        monkeypatch.setattr(
            tool, "predict_inputs", lambda run, paths, **options: calls.append((paths, options)) or iter(batches)
        )
        return calls

    return install


def test_a_table(jaxprop, answers):
    calls = answers(GOOD)
    ran = jaxprop("predict", "pets", "a.png", "b.png", "--top", "2", "--batch-size", "7", "--newest")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "input  label  probability  label_2  probability_2",
        "a.png  cat    0.75         dog      0.25",
        "b.png  dog    0.6          cat      0.4",
    ]
    assert calls == [
        ("pets", {"which": "newest", "code": ()}),
        (["a.png", "b.png"], {"batch_size": 7, "top": 2}),
    ]


def test_lines_of_json(jaxprop, answers):
    answers(GOOD[:1], [GOOD[1], BAD])
    ran = jaxprop("predict", "pets", "-", "--json")
    assert ran.code == 1
    assert [json.loads(line) for line in ran.out.splitlines()] == [
        {"input": "a.png", **GOOD[0].values},
        {"input": "b.png", **GOOD[1].values},
        {"input": "c.png", "error": "is no image"},
    ]
    assert ran.err == "error: c.png: is no image\n1 of 3 records could not be predicted\n"


def test_files(jaxprop, answers):
    answers(GOOD, [BAD])
    ran = jaxprop("predict", "pets", "x", "--out", "new.csv")
    assert (ran.code, ran.out) == (1, "2 predictions: new.csv\n")
    with open("new.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"input": "b.png", "label": "dog", "probability": "0.6", "label_2": "cat", "probability_2": "0.4"}
    assert len(rows) == 2
    answers(GOOD, [BAD])
    ran = jaxprop("predict", "pets", "x", "--out", "new.jsonl", "--json")
    assert json.loads(ran.out) == {"out": "new.jsonl", "records": 3, "failed": 1}
    assert [json.loads(line)["input"] for line in Path("new.jsonl").read_text().splitlines()] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    assert sorted(os.listdir()) == ["new.csv", "new.jsonl"]


def test_a_file_is_written_whole_or_not_at_all(jaxprop, answers, monkeypatch):
    def broken():
        yield GOOD
        raise RuntimeError("the device is gone")

    answers()
    monkeypatch.setattr(tool, "predict_inputs", lambda *_, **__: broken())
    Path("new.csv").write_text("before")
    assert jaxprop("predict", "pets", "x", "--out", "new.csv").code == 1
    assert Path("new.csv").read_text() == "before"
    assert os.listdir() == ["new.csv"]


def test_beams_are_an_option_of_the_task(jaxprop, answers):
    calls = answers([Answer("forty-two", {"translation": "quarante-deux", "probability": 0.9})])
    ran = jaxprop("predict", "numbers", "forty-two", "--beams", "4")
    assert ran.out.splitlines()[1].split() == ["forty-two", "quarante-deux", "0.9"]
    assert calls[1] == (["forty-two"], {"batch_size": None, "beams": 4})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "x"], "error: nowhere: there is no such run folder"),
        (
            ["nowhere", "x", "--out", "a.txt"],
            "error: --out a.txt: expected a name that ends in .csv or .jsonl, or a folder",
        ),
        (["nowhere", "x", "--top", "0"], "--top"),
        (["nowhere", "x", "--beams", "0"], "--beams"),
        (["nowhere"], "Missing argument"),
    ],
)
def test_mistakes(jaxprop, arguments, sentence):
    ran = jaxprop("predict", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err


def test_control_characters_do_not_reach_the_terminal(jaxprop, answers):
    answers([Answer("a\x1b[31m.png", {"label": "cat\x07"}), Answer("b\x1b.png", {}, "\x1b[2J")])
    ran = jaxprop("predict", "pets", "x")
    assert "\x1b" not in ran.out + ran.err
    assert "\x07" not in ran.out


def test_nothing_is_predicted_for_a_reader_that_has_left(package, answers, monkeypatch):
    from jaxprop.cli import main

    def batches():
        yield GOOD
        pytest.fail("went on")

    answers()
    monkeypatch.setattr(tool, "predict_inputs", lambda *_, **__: batches())
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as left:
        monkeypatch.setattr(sys, "stdout", left)
        assert main(["predict", "pets", "x", "--json"]) == 0


@pytest.mark.timeout(300)
def test_a_reader_that_leaves_ends_it_quietly(tmp_path):
    """A whole process, and a run of the digits, whose output is cut off by `head`."""
    from jaxprop.config.build import build
    from jaxprop.data.readers.digits import load_digits
    from jaxprop.run.train import train

    sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp", "hidden": [4]}}
    sections |= {"optimizer": {"name": "adam", "lr": 0.01}, "parallel": {"devices": 1}, "run": {"steps": 1}}
    train(build(sections), tmp_path / "run", quiet=True)
    np.save(tmp_path / "new.npy", np.tile(load_digits()[0], (4, 1)))
    command = [sys.executable, "-m", "jaxprop", "predict", str(tmp_path / "run"), str(tmp_path / "new.npy")]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        first = json.loads(child.stdout.readline())
        child.stdout.close()
        errors = child.stderr.read()
    assert set(first) == {"input", "label", "probability", "top"}
    assert (errors, child.returncode) == ("", 0)


@pytest.mark.timeout(300)
def test_rows_are_answered_while_standard_input_is_open(tmp_path):
    """A whole process, and a run of a table, to which rows are given one by one."""
    from jaxprop.config.build import build
    from jaxprop.run.train import train

    data = {"name": "table", "train": "sklearn:iris.csv", "target": "species"}
    sections = {"task": {"name": "classify"}, "data": data, "model": {"name": "mlp", "hidden": [4]}}
    sections |= {"optimizer": {"name": "adam", "lr": 0.01}}
    train(build(sections | {"parallel": {"devices": 1}, "run": {"steps": 1}}), tmp_path / "run", quiet=True)
    command = [sys.executable, "-m", "jaxprop", "predict", str(tmp_path / "run"), "-", "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1) as child:
        child.stdin.write("sepal length,sepal width,petal length,petal width\n")
        answers = []
        for row in ("5.1,3.5,1.4,0.2", "5.1,wide,1.4,0.2", "6.3,3.3,6,2.5"):
            child.stdin.write(row + "\n")
            answers.append(json.loads(child.stdout.readline()))
        child.stdin.close()
        errors = child.stderr.read()
    assert [(answer["input"], "label" in answer) for answer in answers] == [
        ("stdin:2", True), ("stdin:3", False), ("stdin:4", True),
    ]  # fmt: skip
    assert "which is no finite number" in answers[1]["error"]
    assert errors.splitlines()[-1] == "1 of 3 records could not be predicted"
    assert child.returncode == 1


BOX = {"class": "cat", "score": 0.75, "box": [1.0, 2.0, 6.0, 7.0]}


def found_in(name, boxes=(BOX,)):
    return Answer(name, {"boxes": list(boxes)}, pixels=lambda: np.zeros((10, 12, 1), np.uint8))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """An empty folder to work in."""
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")


def test_boxes_are_a_row_each_and_drawn_beside_their_images(jaxprop, answers, photos):
    for name in ("a.png", "b.png"):
        Path(name).write_bytes(b"")
    answers([found_in("a.png", [BOX, BOX]), found_in("b.png", ()), BAD])
    ran = jaxprop("predict", "pets", "a.png", "b.png", "c.png")
    assert ran.code == 1
    assert ran.out.splitlines() == [
        "input  class  score  x0  y0  x1  y1",
        *["a.png  cat    0.75   1   2   6   7"] * 2,
        "b.png",
    ]
    assert "pictures with boxes: 2, beside the images" in ran.err
    assert sorted(os.listdir()) == ["a.boxes.png", "a.png", "b.boxes.png", "b.png"]


def test_boxes_in_json_name_the_picture_and_a_folder_takes_all_pictures(jaxprop, answers, photos):
    answers([found_in("x/a.png"), found_in("y/a.png"), found_in("-")])
    ran = jaxprop("predict", "pets", "x", "y", "--json", "--out", "drawn", "--score", "0.5")
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert [one["drawn"] for one in told] == [
        str(Path("drawn", name)) for name in ("a.boxes.png", "a-2.boxes.png", "stdin.boxes.png")
    ]
    assert told[0]["boxes"] == [BOX]
    assert sorted(os.listdir("drawn")) == ["a-2.boxes.png", "a.boxes.png", "stdin.boxes.png"]


def test_how_boxes_are_told_is_passed_on_to_the_task(jaxprop, answers, photos):
    calls = answers([found_in("-")])
    assert jaxprop("predict", "pets", "-", "--nms", "class").code == 0
    assert calls[1] == (["-"], {"batch_size": None, "nms": "class"})


def test_an_image_from_standard_input_is_drawn_into_a_folder_alone(jaxprop, answers, photos):
    answers([found_in("-")])
    assert jaxprop("predict", "pets", "-").code == 0
    assert os.listdir() == []


def test_a_folder_for_a_run_that_finds_no_boxes_is_refused(jaxprop, answers):
    answers(GOOD)
    ran = jaxprop("predict", "pets", "a.png", "--out", "drawn")
    assert ran.code == 2
    assert "the run finds no boxes to draw; name a .csv or .jsonl file" in ran.err


def test_boxes_in_a_csv_file_are_rows_and_still_drawn(jaxprop, answers, photos):
    Path("a.png").write_bytes(b"")
    answers([found_in("a.png")])
    assert jaxprop("predict", "pets", "a.png", "--out", "found.csv").code == 0
    with open("found.csv", newline="") as file:
        assert next(csv.DictReader(file))["x1"] == "6.0"
    assert Path("a.boxes.png").exists()
