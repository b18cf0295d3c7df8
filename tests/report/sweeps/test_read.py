"""What is read of a sweep's folder."""

import json

import pytest

from jaxprop.errors import RunFolderError
from jaxprop.report.sweeps import read
from jaxprop.report.sweeps.read import SweepReader
from jaxprop.run.swept import write_results
from tests.report.runs import ACTION, ALERT, make_run
from tests.run.sweeps import make_sweep

RUNS = [({"lr": 1}, 1, 0.8), ({"lr": 1}, 0, 0.9), ({"lr": 2}, 0, 0.95)]


def test_runs_are_read_by_setting_and_seed(tmp_path):
    folder = make_sweep(tmp_path / "s", RUNS)
    make_run(folder / "lr=1,seed=1", alerts=[ALERT, ACTION])
    make_run(folder / "lr=2,seed=0")
    found = SweepReader(folder).read()
    assert [[run.ended.folder for run in runs] for runs in found.runs] == [
        ["lr=2,seed=0"],
        ["lr=1,seed=0", "lr=1,seed=1"],
    ]
    assert found.runs[1][1].alerts == [("gradient_spike", "act")]  # what is done about one is no alert
    assert len(found.runs[1][1].train["loss"].step) == 100
    assert found.runs[1][0].train == {}  # its folder is gone
    assert (found.name, found.notes) == ("s", ())
    write_results(folder, found.results._replace(warning="other data"))
    assert SweepReader(folder).read().notes == ("other data",)


def test_of_very_many_runs_those_that_rank_best_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MOST_CURVES", 1)
    monkeypatch.setattr(read, "MOST_ALERTS", 2)
    folder = make_sweep(tmp_path / "s", RUNS)
    for name in ("lr=1,seed=0", "lr=1,seed=1", "lr=2,seed=0"):
        make_run(folder / name, alerts=[ALERT])
    found = SweepReader(folder).read()
    assert [len(run.train) > 0 for runs in found.runs for run in runs] == [True, False, False]
    assert [len(run.alerts) for runs in found.runs for run in runs] == [1, 1, 0]
    assert found.notes == (
        "curves are of the 1 runs that rank best, of 3",
        "alerts are of the 2 runs that rank best, of 3",
    )


def test_files_that_change_are_seen(tmp_path):
    reader = SweepReader(make_sweep(tmp_path / "s", RUNS))
    before = reader.signature()
    make_run(reader.folder / "lr=2,seed=0")
    after = reader.signature()
    assert before != after == reader.signature()


def test_links_in_a_sweep_are_not_followed(tmp_path):
    folder = make_sweep(tmp_path / "s", RUNS)
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"step": 1, "split": "train", "loss": 1.0}))
    (folder / "lr=2,seed=0").mkdir()
    (folder / "lr=2,seed=0" / "metrics.jsonl").symlink_to(secret)
    with pytest.raises(RunFolderError, match=r"metrics.jsonl cannot be read: it is a link"):
        SweepReader(folder).read()
