"""A run's folder as columns, whole or not."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from jaxprop.errors import JaxpropError, RunFolderError
from jaxprop.report.read import Reader
from tests.processes import started
from tests.report.runs import ACTION, ALERT, FINDING, LAYERS, LR_FIND, TAPS, lines, make_run, rows, train_records


def read(folder):
    return Reader(folder).read()


def test_a_whole_run(tmp_path):
    run = read(make_run(tmp_path / "a", alerts=[ALERT, ACTION], finding=FINDING, lr_find=LR_FIND))
    assert (run.name, run.status, run.last_step, run.notes) == ("a", "completed", 100, ())
    assert run.train["loss"].step.tolist() == list(range(1, 101))
    assert run.evaluation["accuracy"].step.tolist() == [20, 40, 60, 80, 100]
    assert (run.layers.names, run.layers.steps.tolist()) == (LAYERS, list(range(1, 101)))
    assert (run.taps.names, run.taps.steps.tolist()) == (TAPS, list(range(5, 101, 5)))
    assert (run.alerts, run.actions, run.findings) == ([ALERT], [ACTION], [FINDING])
    assert run.config["data"] == {"name": "digits", "batch_size": 64}
    assert run.lr_find["suggested"] == 0.02


def test_a_run_of_jaxprop_itself(tmp_path):
    """What a training writes is what is read here."""
    from jaxprop.config.build import build
    from jaxprop.run.train import train

    config = build({
        "task": {"name": "classify"}, "data": {"name": "digits", "batch_size": 256},
        "model": {"name": "mlp", "hidden": [4]},
        "optimizer": {"name": "sgd", "lr": 0.1}, "run": {"steps": 6, "log_every": 2, "eval_every": 3},
        "health": {"every": 1, "rare_every": 2}, "sinks": {"console": False},
    })  # fmt: skip
    train(config, tmp_path / "run")
    run = read(tmp_path / "run")
    assert (run.status, run.last_step, run.notes, run.config["run"]["steps"]) == ("completed", 6, (), 6)
    assert {"loss", "grad_norm", "lr"} <= set(run.train)
    assert run.layers.names == ("layers/0/dense", "head")
    assert set(run.layers.values) == {"grad_rms", "grad_norm", "update_ratio"}
    assert set(run.taps.values) == {"grad_rms", "rms", "dead"}
    sizes = np.array([64 * 4 + 4, 4 * 10 + 10])[:, None]
    np.testing.assert_allclose(run.layers.values["grad_rms"], run.layers.values["grad_norm"] / sizes**0.5, rtol=1e-5)


def test_reading_does_not_load_jax(tmp_path):
    make_run(tmp_path / "a")
    code = (
        "import sys; from jaxprop.cli import main; "
        f"assert main(['report', {str(tmp_path / 'a')!r}]) == 0; assert 'jax' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_null_is_not_finite_and_a_text_is_nothing(tmp_path):
    records = [
        {"step": 1, "split": "train", "loss": 1.0, "note": "x", "grad_norm": None},
        {"step": 2, "split": "train", "loss": None, "grad_norm": 2.0},
    ]
    run = read(make_run(tmp_path / "a", metrics=records))
    np.testing.assert_array_equal(run.train["loss"].value, [1, np.nan])
    np.testing.assert_array_equal(run.train["grad_norm"].value, [np.nan, 2])
    assert "note" not in run.train


def test_of_a_step_written_twice_the_later_record_counts(tmp_path):
    records = [{"step": s, "split": "train", "loss": x} for s, x in [(1, 1.0), (3, 3.0), (2, 2.0), (3, 30.0)]]
    run = read(make_run(tmp_path / "a", metrics=records))
    assert (run.train["loss"].step.tolist(), run.train["loss"].value.tolist()) == ([1, 2, 3], [1, 2, 30])


# -- what cannot be read --------------------------------------------------------------------------


def append(name, text):
    def change(folder):
        with open(folder / name, "a") as file:
            file.write(text)

    return change


def remove(name):
    return lambda folder: (folder / name).unlink()


def overwrite(name, text):
    return lambda folder: (folder / name).write_text(text)


TROUBLE = {
    "no layers": (remove("layers.jsonl"), "layers.jsonl is missing, so there are no maps of the layers"),
    "empty layers": (overwrite("layers.jsonl", ""), "layers.jsonl is empty, so there are no maps of the layers"),
    "unreadable layers": (overwrite("layers.jsonl", '{"a": 1}\n'), "layers.jsonl holds no row that can be read"),
    "one line": (append("metrics.jsonl", "{]\n"), "1 damaged line of metrics.jsonl left out"),
    "lines": (append("layers.jsonl", '}\n{"step": "x", "layer": "a"}\n'), "2 damaged lines of layers.jsonl left out"),
    "cut alerts": (append("alerts.jsonl", '{"st'), "the last line of alerts.jsonl is cut short and left out"),
    "no config": (remove("config.yaml"), "config.yaml is missing, so the batch size is not known"),
    "bad config": (overwrite("config.yaml", "a: [1"), "config.yaml cannot be read as YAML and is left out"),
    "bad summary": (overwrite("summary.json", "[1]"), "summary.json is damaged and left out"),
    "bad lr_find": (
        overwrite("lr_find.json", '{"lr": [1, -1], "loss": [1, 2]}'),
        "lr_find.json holds no curve of losses against learning rates and is left out",
    ),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_what_cannot_be_read_is_left_out_and_told(tmp_path, name):
    change, note = TROUBLE[name]
    folder = make_run(tmp_path / "a")
    change(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = read(folder)
    assert [found[: len(note)] for found in run.notes] == [note]
    assert len(run.train["loss"].step) == 100
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_layers_that_were_switched_off(tmp_path):
    run = read(make_run(tmp_path / "a", layers=[], config="health: {layers: false}\n"))
    assert run.notes == ("layers.jsonl is empty, since health.layers is false, so there are no maps of the layers",)


def test_a_line_cut_short_is_no_fault_of_a_run_still_being_written(tmp_path):
    folder = make_run(tmp_path / "a", ended=None)
    append("metrics.jsonl", '{"step": 101, "sp')(folder)
    run = read(folder)
    assert (run.status, run.notes, run.last_step) == ("unfinished", (), 100)


@pytest.mark.parametrize(
    ("owner", "status"),
    [
        ({"pid": os.getpid(), "host": socket.gethostname()}, "running"),
        ({"pid": 1, "host": "elsewhere"}, "running"),
        ({"pid": 2**22 + 1, "host": socket.gethostname()}, "unfinished"),
        ("noise", "unfinished"),
        ({"pid": "x"}, "unfinished"),
    ],
)
def test_who_holds_the_folder(tmp_path, owner, status):
    folder = make_run(tmp_path / "a", ended=None)
    (folder / ".lock").write_text(json.dumps(owner))
    assert read(folder).status == status


def test_a_run_that_is_killed_while_it_is_watched(tmp_path):
    folder = make_run(tmp_path / "a", ended=None)
    with started([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as writer:
        (folder / ".lock").write_text(json.dumps({"pid": writer.pid, "host": socket.gethostname()}))
        reader = Reader(folder)
        before = reader.signature()
        assert reader.signature() == before
        writer.kill()
    assert reader.signature() != before
    assert reader.read().status == "unfinished"


NOTHING = {
    "no metrics": (
        remove("metrics.jsonl"),
        "has no metrics.jsonl: the run has not logged anything yet, or sinks.jsonl is",
    ),
    "empty metrics": (overwrite("metrics.jsonl", ""), "has an empty metrics.jsonl; the first record is written after"),
    "damaged metrics": (
        overwrite("metrics.jsonl", "a\nb\n"),
        "has a metrics.jsonl without one record that can be read (2 damaged lines)",
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_show(tmp_path, name):
    change, sentence = NOTHING[name]
    folder = make_run(tmp_path / "a")
    change(folder)
    with pytest.raises(RunFolderError) as caught:
        read(folder)
    assert str(caught.value).startswith(f"{folder} {sentence}")
    assert caught.value.exit_code == 1


def test_a_search_for_the_learning_rate_alone(tmp_path):
    folder = make_run(tmp_path / "a", lr_find=LR_FIND)
    (folder / "metrics.jsonl").unlink()
    run = read(folder)
    assert (run.train, run.last_step) == ({}, 0)


def test_a_file_that_is_a_folder(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "alerts.jsonl").unlink()
    (folder / "alerts.jsonl").mkdir()
    with pytest.raises(RunFolderError, match=r"alerts\.jsonl cannot be read: Is a directory"):
        read(folder)


# -- again ----------------------------------------------------------------------------------------


def test_a_run_that_grows_goes_back_and_ends(tmp_path):
    folder = make_run(tmp_path / "a", ended=None)
    reader = Reader(folder)
    before = reader.signature()
    assert reader.read().last_step == 100
    assert reader.signature() == before
    append("metrics.jsonl", lines(train_records(10, first=101)))(folder)
    append("layers.jsonl", lines(rows(10, first=101)))(folder)
    grown = reader.read()
    assert (grown.last_step, grown.layers.steps[-1], len(grown.layers.steps)) == (110, 110, 110)
    assert reader.signature() != before
    overwrite("metrics.jsonl", lines(train_records(50)))(folder)
    overwrite("layers.jsonl", lines(rows(50)))(folder)
    back = reader.read()
    assert (back.last_step, len(back.layers.steps)) == (50, 50)
    (folder / "summary.json").write_text('{"status": "diverged"}')
    assert reader.read().status == "diverged"


def test_what_is_read_again_is_what_is_read_at_once(tmp_path):
    folder = make_run(tmp_path / "a", metrics=train_records(30), layers=rows(30))
    reader = Reader(folder)
    reader.read()
    append("metrics.jsonl", lines(train_records(30, first=31)))(folder)
    append("layers.jsonl", lines(rows(30, first=31)))(folder)
    again, once = reader.read(), read(folder)
    for name, table in once.layers.values.items():
        np.testing.assert_array_equal(again.layers.values[name], table)
    np.testing.assert_array_equal(again.train["loss"].value, once.train["loss"].value)


def test_a_run_that_began_anew_has_nothing_to_show(tmp_path):
    folder = make_run(tmp_path / "a")
    reader = Reader(folder)
    reader.read()
    overwrite("metrics.jsonl", "")(folder)
    with pytest.raises(JaxpropError, match="has an empty metrics"):
        reader.read()


def test_peaks_stand_at_their_own_steps(tmp_path):
    records = list(train_records(30))
    records[-1] |= {"loss_max": 9.0, "loss_max_step": records[-1]["step"] - 0.0, "grad_norm_max": 7.0}
    records[-2] |= {"loss_max": 8.0, "loss_max_step": 10**20}
    extra = {"step": 40, "split": "train", "loss": 0.5, "loss_max": 5.0, "loss_max_step": 37}
    run = Reader(make_run(tmp_path / "a", metrics=[*records, extra])).read()
    steps, values = run.with_peaks("loss")
    assert steps.tolist() == [*run.train["loss"].step[:-1].tolist(), 37, 40]
    assert values[-2:].tolist() == [5.0, 0.5]
    assert run.with_peaks("grad_norm") == run.train["grad_norm"]


def test_the_last_step_is_the_summarys_where_no_record_is_later(tmp_path):
    run = Reader(make_run(tmp_path / "a", metrics=train_records(50))).read()
    assert (run.summary["step"], run.last_step) == (100, 100)
    assert run._replace(summary={"step": "many"}).last_step == run.train["loss"].step[-1]
