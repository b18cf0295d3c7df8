"""Runs side by side."""

import pytest

from jaxprop.report.compare import LONGEST, MOST_COLUMNS, MOST_KEYS, compare, differences, labels
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
        "run", "best eval accuracy", "best eval loss", "final train loss", "steps", "time", "parameters", "status",
        "alerts", "worst layer",
    ]  # fmt: skip
    assert found.rows[0] == [
        "a", "0.99 at 100", "0.5275 at 100", "0.5024", "100", "1 s", "-", "completed", "none",
        "layers/2/dense: gradient RMS 0.12, 32 times above the median layer",
    ]  # fmt: skip
    assert found.rows[1][:4] == ["b", "0.975 at 40", "0.6944 at 40", "not finite"]
    assert found.rows[1][7:] == ["diverged", "1 to act on, 1 advice", "layers/1/dense: gradient spike at step 60"]
    assert (found.order, found.metric, found.keys, found.more, found.note) == ([0, 1], "accuracy", [], 0, "")


def scored(folder, name, accuracy, **given):
    metrics = [{"step": step, "split": "eval", "loss": 1.0, "accuracy": accuracy} for step in (1, 2)]
    return read(folder / name, metrics=metrics, layers=[], **given)


def test_the_best_run_comes_first_with_the_keys_that_differ(tmp_path):
    configs = [CONFIG.replace("lr: 0.1", f"lr: {lr}") for lr in (0.1, 0.2, 0.3)]
    runs = [scored(tmp_path, f"{i}", value, config=configs[i]) for i, value in enumerate((0.7, 0.9, None))]
    found = compare(runs, ["x", "y", "z"])
    assert found.order == [1, 0, 2]  # one without a value comes last
    assert found.headers[:3] == ["run", "optimizer.lr", "best eval accuracy"]
    assert [row[:3] for row in found.rows] == [["y", "0.2", "0.9 at 1"], ["x", "0.1", "0.7 at 1"], ["z", "0.3", "-"]]
    assert found.keys == [("optimizer.lr", ["0.2", "0.1", "0.3"])]


@pytest.mark.parametrize(("task", "order"), [("language", [1, 0]), ("classify", [0, 1]), ("regress", [1, 0])])
def test_the_metric_that_decides_is_the_task_s(tmp_path, task, order):
    config = f"task: {{name: {task}}}\n"
    records = [
        {"step": 1, "split": "eval", "loss": 2.0, "accuracy": 0.9, "mean_absolute_error": 3.0},
        {"step": 1, "split": "eval", "loss": 1.0, "accuracy": 0.8, "mean_absolute_error": 2.0},
    ]
    runs = [read(tmp_path / str(i), metrics=[record], layers=[], config=config) for i, record in enumerate(records)]
    assert compare(runs, ["a", "b"]).order == order


def test_long_values_are_cut_and_few_keys_are_columns(tmp_path):
    config = "model: {" + ", ".join(f"{k}: {'v' * 60}" for k in "abcdef") + "}\n"
    found = compare([read(tmp_path / "a"), read(tmp_path / "b", config=config)], ["a", "b"])
    assert len(found.keys) > MOST_COLUMNS
    assert found.headers[1 : MOST_COLUMNS + 2] == [*(key for key, _ in found.keys[:MOST_COLUMNS]), "best eval accuracy"]
    assert all(len(cell) <= LONGEST for row in found.rows for cell in row[1 : MOST_COLUMNS + 1])


def test_the_best_is_what_the_checkpoints_are_kept_by(tmp_path):
    config = CONFIG + "checkpoint: {best: accuracy, mode: min}\n"
    assert compare([read(tmp_path / "a", config=config)] * 2, ["a", "b"]).rows[0][1] == "0.95 at 20"


def test_a_run_without_an_evaluation(tmp_path):
    metrics = [record for record in train_records() if record["split"] == "train"]
    found = compare([read(tmp_path / "a"), read(tmp_path / "b", metrics=metrics, layers=[])], ["a", "b"])
    assert found.rows[1][1:] == ["-", "-", "0.5024", "100", "1 s", "-", "completed", "none", "-"]
    without = [read(tmp_path / name, metrics=metrics, layers=[]) for name in "cd"]
    assert (compare(without, ["c", "d"]).order, compare(without, ["c", "d"]).metric) == ([0, 1], "")


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
