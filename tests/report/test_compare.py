"""Runs side by side."""

from jaxprop.report.compare import MOST_KEYS, compare, differences, labels
from jaxprop.report.read import Reader
from tests.report.runs import ALERT, CONFIG, make_run, rows, train_records


def read(folder, **given):
    return Reader(make_run(folder, **given)).read()


def test_the_table(tmp_path):
    metrics = [*train_records(50), {"step": 51, "split": "train", "loss": None}]
    a = read(tmp_path / "a")
    b = read(tmp_path / "b", metrics=metrics, alerts=[ALERT, ALERT | {"severity": "advice"}], ended="diverged")
    found = compare([a, b], ["a", "b"])
    assert found.headers == [
        "run", "status", "steps", "final train loss", "best eval loss", "best eval accuracy", "alerts", "worst layer",
    ]  # fmt: skip
    assert found.rows[0] == [
        "a", "completed", "100", "0.5024", "0.5275 at 100", "0.99 at 100", "none",
        "layers/2/dense: gradient RMS 0.12, 32 times above the median layer",
    ]  # fmt: skip
    assert found.rows[1][:4] == ["b", "diverged", "100", "not finite"]
    assert found.rows[1][6:] == ["1 to act on, 1 advice", "layers/1/dense: gradient spike at step 60"]
    assert (found.keys, found.more, found.note) == ([], 0, "")


def test_the_best_is_what_the_checkpoints_are_kept_by(tmp_path):
    config = CONFIG + "checkpoint: {best: accuracy, mode: min}\n"
    assert compare([read(tmp_path / "a", config=config)] * 2, ["a", "b"]).rows[0][5] == "0.95 at 20"


def test_a_run_without_an_evaluation(tmp_path):
    metrics = [record for record in train_records() if record["split"] == "train"]
    found = compare([read(tmp_path / "a"), read(tmp_path / "b", metrics=metrics, layers=[])], ["a", "b"])
    assert found.rows[1][4:] == ["-", "-", "none", "-"]


def test_keys_that_differ():
    one = {"run": {"seed": 1}, "optimizer": {"lr": 0.1, "name": "sgd"}, "model": {"hidden": [1, 2]}, "x": 1}
    two = {"run": {"seed": 2}, "optimizer": {"lr": 0.1}, "model": {"hidden": [1]}, "x": {}}
    assert differences([one, two]) == [
        ("model.hidden", ["[1, 2]", "[1]"]),
        ("optimizer.name", ["sgd", "-"]),
        ("run.seed", ["1", "2"]),
        ("x", ["1", "{}"]),
    ]


def test_very_many_keys_are_counted(tmp_path):
    run = read(tmp_path / "a")
    other = run._replace(config=run.config | {"data": {f"k{i}": i for i in range(40)}})
    found = compare([run, other], ["a", "b"])
    assert len(found.keys) == MOST_KEYS
    assert found.more == 42 - MOST_KEYS  # with the two keys that only the other one has


def test_runs_with_other_layers(tmp_path):
    a, b = read(tmp_path / "a"), read(tmp_path / "b", layers=rows(layers=("x", "y")))
    assert compare([a, b], ["a", "b"]).note.startswith("These runs have different layers: their curves are compared")
    assert compare([a, a], ["a", "a"]).note == ""
    without = read(tmp_path / "c", layers=[])
    assert compare([a, without], ["a", "c"]).note == ""


def test_names():
    assert labels([("a", "x")]) == ["a"]
    assert labels([("a", "x"), ("a", "y"), ("b", "y")]) == ["x/a", "y/a", "b"]
