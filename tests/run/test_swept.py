"""A sweep's folder: which is meant, what is read of it, and what is refused of files that may be anyone's."""

import json
import math
from pathlib import Path

import pytest

from jaxprop.errors import RunFolderError, UsageError
from jaxprop.run.swept import as_json, find_sweep, read_results, sure, write_results
from tests.run.sweeps import make_sweep

RUNS = [({"optimizer.lr": 0.1}, 0, 0.9), ({"optimizer.lr": 0.1}, 1, 0.8), ({"optimizer.lr": 0.2}, 0, "diverged")]


def test_what_is_written_is_read_again(tmp_path):
    folder = make_sweep(tmp_path / "s", RUNS)
    found = read_results(folder)
    assert found.settings[0].mean == pytest.approx(0.85)
    assert math.isnan(found.settings[1].mean)
    assert [one.problem for one in found.runs] == ["", "", "diverged"]
    before = (folder / "results.json").read_text()
    assert '"mean": null' in before
    assert "NaN" not in before
    write_results(folder, found)
    assert (folder / "results.json").read_text() == before
    write_results(folder, found._replace(warning="other data"))
    assert read_results(folder).warning == "other data"
    assert as_json(found)["keys"] == ["optimizer.lr"]


def test_settings_need_not_be_a_grid(tmp_path):
    runs = [({"a": 0.123}, 0, 0.5), ({"a": 7, "b": [1, {"c": None}]}, 0, 0.6), ({}, 0, 0.7)]
    found = read_results(make_sweep(tmp_path, runs))
    assert [one.setting for one in found.settings] == [{}, {"a": 7, "b": [1, {"c": None}]}, {"a": 0.123}]
    assert found.keys == ("a", "b")


def test_which_sweep_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_sweep("runs/wine-sweep", RUNS)
    assert find_sweep(Path("wine-sweep")) == find_sweep(Path("runs/wine-sweep")) == Path("runs/wine-sweep")
    (tmp_path / "runs" / "wine").mkdir()
    (tmp_path / "runs" / "wine" / "config.yaml").touch()
    for name, message in [
        ("wine-swep", r"wine-swep: there is no such folder of a sweep; did you mean 'wine-sweep'\? \(sweeps in runs"),
        ("runs/wine", r"runs/wine: is a run, not a sweep"),
        ("runs", r"runs: is not a sweep's folder: it has no sweep.json"),
        ("runs/wine/config.yaml", r"config.yaml: is a file, not a sweep's folder"),
    ]:
        with pytest.raises(UsageError, match=message):
            find_sweep(Path(name))


def test_how_sure_the_first_place_is(tmp_path):
    def said(*runs):
        return sure(read_results(make_sweep(tmp_path, runs)))

    one, two = {"lr": 1}, {"lr": 2}
    assert said((one, 0, 0.5)) is None
    assert "one seed" in said((one, 0, 0.5), (two, 0, 0.6))
    assert "next (lr=1): +0.2, p = 0 over 2 seeds, which is more than" in said(
        (one, 0, 0.5), (one, 1, 0.625), (two, 0, 0.6875), (two, 1, 0.8125)
    ).replace("0.188", "0.2")


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "no settings": {"settings": None},
    "a mean that is a text": {"settings": [{"setting": {}, "values": [], "seeds": [], "mean": "x", "lost": 0}]},
    "a setting that is a list": {"runs": [{"setting": [], "seed": 0}]},
    "another mode": {"better": "most"},
    "a key that is a number": {"keys": [3]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_file_is_one_sentence(tmp_path, name):
    folder = make_sweep(tmp_path, RUNS)
    path = folder / "results.json"
    broken = BROKEN[name]
    path.write_text(broken if isinstance(broken, str) else json.dumps(json.loads(path.read_text()) | broken))
    with pytest.raises(RunFolderError, match=r"results.json is damaged; the same 'jaxprop sweep' command writes it"):
        read_results(folder)


@pytest.mark.parametrize("where", ["../other", "/etc", "..", "a/b", ""])
def test_a_run_lies_in_the_sweep_and_nowhere_else(tmp_path, where):
    folder = make_sweep(tmp_path, RUNS)
    found = json.loads((folder / "results.json").read_text())
    found["runs"][0]["folder"] = where
    (folder / "results.json").write_text(json.dumps(found))
    with pytest.raises(RunFolderError, match=r"results.json is damaged"):
        read_results(folder)


def test_a_sweep_without_results(tmp_path):
    folder = make_sweep(tmp_path, RUNS)
    (folder / "results.json").unlink()
    with pytest.raises(RunFolderError, match=r"has no results.json: none of its runs has ended"):
        read_results(folder)
