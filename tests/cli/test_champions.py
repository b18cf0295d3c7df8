"""`jaxprop champions`: the list, one champion, rolling back, JSON; and a champion in the place of a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.run import champions
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from tests.run.champion_acts import challenge, fake_run
from tests.run.trained import FEATURES, sections, trained, write_arrays

VERSION = "runs/champions/small/versions/0001"


@pytest.fixture
def made(jaxprop):
    """A champion of three versions in `runs/champions` of the working directory, of which the second serves."""
    champions.adopt(None, "digits", fake_run(Path("runs", "first")))
    challenge(None, "week 2", True)
    challenge(None, "week 3", False)
    return Path("runs", "champions", "digits")


def test_the_list_has_a_line_for_each_name(jaxprop, made):
    ran = jaxprop("champions")
    assert (ran.code, ran.err) == (0, "")
    header, line = [" ".join(line.split()) for line in ran.out.splitlines() if "─" not in line]
    assert header == "champion serves have served kept aside since by reason"
    assert line.startswith("digits version 2 2 1 20")
    assert line.endswith("promoted better")


def test_without_champions_the_way_to_one_is_told(jaxprop):
    ran = jaxprop("champions")
    assert (ran.code, ran.out) == (
        0,
        "no champions in runs/champions; 'jaxprop retrain RUN --data NEW' makes one of a run\n",
    )


def test_one_champion_is_told_in_full(jaxprop, made):
    ran = jaxprop("champions", "digits")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("champion digits: version 2 serves\n\n  version 1: adopted ")
    assert "\n* version 2: promoted " in ran.out
    assert "\n  version 3: kept aside " in ran.out


def test_rolling_back(jaxprop, made):
    ran = jaxprop("champions", "digits", "--rollback", "1", "--reason", "the cameras were changed back")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"version 1 of the champion digits serves now: {made / 'versions' / '0001'}\n"
    assert jaxprop("champions", "digits").out.strip().endswith(": the cameras were changed back")
    ran = jaxprop("champions", "digits", "--rollback", "2", "--json")
    assert json.loads(ran.out)["serving"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digits", "--rollback", "3"], "was kept aside and has never served; versions that have: 1, 2"),
        (["digits", "--rollback", "2"], "serves already"),
        (["digits", "--rollback", "9"], "has no version '9'; versions: 1, 2, 3"),
        (["--rollback", "1"], "--rollback 1 needs the name of a champion"),
        (["digits", "--reason", "so"], "--reason needs --rollback VERSION; add it"),
        (["a/b"], "'a/b' cannot be the name of a champion"),
        (["nobody"], "there is no champion 'nobody' in runs/champions (champions: digits)"),
        (["--root", "nowhere"], "nowhere: there is no such folder of champions; the default is runs/champions"),
    ],
)
def test_mistakes_are_one_sentence(jaxprop, made, arguments, says):
    ran = jaxprop("champions", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1


def test_json(jaxprop, made):
    whole = json.loads(jaxprop("champions", "--json").out)
    assert whole["root"] == str(made.parent.absolute())
    assert [(line["name"], line["serving"], line["problem"]) for line in whole["champions"]] == [("digits", 2, "")]
    one = json.loads(jaxprop("champions", "digits", "--json").out)
    assert one["run"] == str((made / "versions" / "0002").absolute())
    assert [(v["version"], v["serving"], v["decision"]) for v in one["versions"]] == [
        (1, False, "adopted"), (2, True, "promoted"), (3, False, "kept aside"),
    ]  # fmt: skip
    assert [act["act"] for act in one["history"]] == ["adopted", "promoted"]


def test_damage_is_listed_told_on_stderr_and_in_the_exit_code(jaxprop, made):
    (made / "versions" / "0002" / "summary.json").unlink()
    for arguments in ((), ("digits",), ("--json",), ("digits", "--json")):
        ran = jaxprop("champions", *arguments)
        assert ran.code == 1
        assert "digits" in ran.out
        assert ran.err.startswith("error: version 2 of the champion 'digits' is damaged (")
        assert "'jaxprop champions digits --rollback 1' lets version 1 serve" in ran.err
    assert jaxprop("champions", "digits", "--rollback", "1").code == 0
    assert jaxprop("champions", "digits").code == 0


def test_another_root_by_option_and_by_environment(jaxprop, made, monkeypatch):
    made.parent.rename("kept")
    assert jaxprop("champions", "digits").code == 2
    assert jaxprop("champions", "digits", "--root", "kept").code == 0
    monkeypatch.setenv("JAXPROP_CHAMPIONS", "kept")
    assert jaxprop("champions", "digits").code == 0


# -- in the place of a run ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A working directory with a champion `small` of one trained run, and the run's data."""
    folder = tmp_path_factory.mktemp("home")
    champions.adopt(folder / "runs" / "champions", "small", trained(folder))
    write_arrays(folder)
    return folder


@pytest.fixture
def here(jaxprop, home, monkeypatch):
    """Runs a command in that directory."""
    monkeypatch.chdir(home)
    return jaxprop


@pytest.mark.parametrize("named", ["champion:small", "champion:small@1"])
def test_a_champion_is_loaded_by_name(here, home, named):
    run = load(named)
    assert run.folder == home / "runs" / "champions" / "small" / "versions" / "0001"
    assert run.predict(np.zeros((2, FEATURES), np.float32))["class"].shape == (2,)


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "champion:small", "test.npz", "--json"),
        ("eval", "champion:small", "--json"),
        ("eval", "data.test=test.npz", "champion:small@1", "--json"),
        ("export", "champion:small", "--format", "safetensors", "--out", "exported", "--json"),
        ("report", "champion:small", "--no-html", "--json"),
        ("explain", "champion:small", "--json"),
        ("info", "champion:small", "--json"),
        ("validate", "champion:small"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_take_a_champion_in_the_place_of_a_run(here, arguments):
    ran = here(*arguments)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out


def test_commands_refuse_a_champion_that_is_not_there_or_is_damaged(here, home, tmp_path, monkeypatch):
    commands = ("eval", "report", "replay", "generate", "train", "predict x.npz", "export --format onnx")
    for name, *more in map(str.split, commands):
        ran = here(name, "champion:big", *more)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("error: there is no champion 'big' in runs/champions (champions: small); ")
    shutil.copytree(home / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    next((tmp_path / "runs").glob("champions/small/versions/0001/checkpoints/*/manifest.json")).write_text("{}")
    ran = here("predict", "champion:small", "x.npz")
    assert (ran.code, ran.out) == (1, "")
    assert "manifest.json has changed since the version was made); no other version can serve; restore " in ran.err


@pytest.mark.timeout(300)
def test_a_trained_challenger_answers_after_its_move_as_before(jaxprop, home, tmp_path):
    root, inputs = tmp_path / "champions", np.eye(FEATURES, dtype=np.float32)
    shutil.copytree(home / "runs" / "champions", root)
    with champions.begin(root, "small", {"data": "week 2"}) as making:
        train(build(sections(home, run={"steps": 20})), making.folder, quiet=True)
        before = load(making.folder).predict(inputs)["probabilities"]
        version = champions.settle(making, {"reason": "better"}, promote=True)
    assert (version.number, version.folder.name, making.folder.exists()) == (2, "0002", False)
    run = load(champions.resolve("champion:small", root))
    assert run.folder == version.folder
    np.testing.assert_array_equal(run.predict(inputs)["probabilities"], before)
    told = jaxprop("champions", "small", "--root", root).out
    assert "config   run.steps: 12 -> 20" in told
    assert told.count("data     train ") == 2


def test_a_version_is_not_trained_further(here, home):
    for arguments in (("champion:small",), ("champion:small", "--fresh"), ("small.yaml", "--run", VERSION)):
        shutil.copy(home / VERSION / "config.yaml", "small.yaml")
        ran = here("train", *arguments)
        assert ran.code == 2
        assert ran.err.startswith(f"error: {VERSION} is a version of a champion, which is never trained further; ")
    assert champions.current(None, "small").number == 1


def test_a_new_run_starts_from_a_champion_and_records_which_version_that_was(here, home):
    ran = here("train", "champion:small", "run.init_from=champion:small", "run.steps=1", "--run", "warm", "-q")
    assert ran.code == 0, ran.err
    source = load("warm/").config.run.init_from.source
    assert source == str(home / VERSION)
