import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxprop.errors import EXIT_RUNTIME, CheckpointError, JaxpropError, RunFolderError, UsageError
from jaxprop.run import champions
from jaxprop.run.served import digests, read_version
from tests.processes import started
from tests.run import champion_acts
from tests.run.champion_acts import STOPPED, challenge, fake_run, roll_back

KILLS = 50
NAME = "digits"


@pytest.fixture(autouse=True)
def synced(monkeypatch):
    """Descriptors that were to be on the disk; the tests do not wait for it."""
    found = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: found.append(os.path.realpath(f"/proc/self/fd/{descriptor}")))
    return found


@pytest.fixture
def root(tmp_path):
    """A champion of one version, adopted from the folder `run`."""
    champions.adopt(tmp_path / "champions", NAME, fake_run(tmp_path / "run"))
    return tmp_path / "champions"


@pytest.fixture
def ask(default_signals):
    """A light process that forks a child for each request: returns its pid, and a function that waits for its end."""
    command = [sys.executable, champion_acts.__file__]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def asking(root, **asked):
            process.stdin.write(json.dumps({"root": str(root), **asked}) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline()), lambda: int(process.stdout.readline())

        yield asking


def answer_of(version):
    return (version.folder / "checkpoints" / "10" / "state" / "arrays").read_text()


def history(root, name=NAME):
    return json.loads((root / name / "champion.json").read_text())["history"]


# -- acts -----------------------------------------------------------------------------------------


def test_a_run_is_adopted_as_a_copy_with_its_digests_and_serves(tmp_path):
    run = fake_run(tmp_path / "run")
    (run / "checkpoints" / "20.orbax-checkpoint-tmp").mkdir()
    version = champions.adopt(tmp_path / "champions", NAME, run, {"reason": "the first", "data": {"train": "f00d"}})
    assert (version.number, version.decision, version.serving, version.problem) == (1, "adopted", True, "")
    assert version.record["data"] == {"train": "f00d"}
    assert version.record["files"] == digests(run) == digests(version.folder)
    assert (version.folder / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    assert not list(version.folder.glob("checkpoints/*tmp*"))
    assert champions.resolve(f"champion:{NAME}", tmp_path / "champions") == version.folder
    shutil.rmtree(run)
    assert champions.current(tmp_path / "champions", NAME) == version


def test_a_run_that_changes_while_it_is_copied_is_not_adopted(tmp_path, monkeypatch):
    run = fake_run(tmp_path / "run")

    def copy(read, written):
        written.write(b"other")

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises(RunFolderError, match="has changed while it was copied; wait until nothing writes to it"):
        champions.adopt(tmp_path / "champions", NAME, run)
    assert champions.names(tmp_path / "champions") == []


def test_a_version_does_not_become_another_champion(root):
    with pytest.raises(UsageError, match=r"0001 is a version of a champion already; give champion:NAME"):
        champions.adopt(root, "0001", champions.current(root, NAME).folder)
    assert champions.names(root) == [NAME]


def test_a_name_is_adopted_once(root, tmp_path):
    with pytest.raises(UsageError, match=r"there is a champion 'digits' in .* already; 'jaxprop retrain'"):
        champions.adopt(root, NAME, tmp_path / "run")


def without_checkpoint(run):
    shutil.rmtree(run / "checkpoints")


def interrupted(run):
    (run / "summary.json").write_text('{"status": "interrupted"}')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without_checkpoint, "has no checkpoint; train it with checkpoint.enabled: true"),
        (interrupted, r"is not a completed run \(interrupted\); 'jaxprop train .*' goes on with it"),
        (lambda run: (run / "summary.json").unlink(), r"is not a completed run \(it has no summary.json\)"),
        (lambda run: (run / "config.yaml").unlink(), "is not the folder of a run: it has no config.yaml"),
        (lambda run: (run / "config.yaml").write_text("# The settings of a run of jaxprop.fit: a record, and no "
         "configuration that 'jaxprop train' could run.\n"), "is a run of jaxprop.fit"),
    ],
)  # fmt: skip
def test_what_is_no_completed_run_is_not_adopted_and_leaves_nothing(tmp_path, damage, says):
    run = fake_run(tmp_path / "run")
    damage(run)
    with pytest.raises(UsageError, match=says):
        champions.adopt(tmp_path / "champions", NAME, run)
    assert not (tmp_path / "champions").exists()


def test_a_link_in_a_run_is_not_followed(tmp_path):
    run = fake_run(tmp_path / "run")
    (run / "prepared.json").symlink_to("/etc/hostname")
    with pytest.raises(RunFolderError, match=r"it is a link, and jaxprop writes through none.*prepared.json"):
        champions.adopt(tmp_path / "champions", NAME, run)
    assert not (tmp_path / "champions" / NAME).exists()
    (run / "prepared.json").unlink()
    assert champions.adopt(tmp_path / "champions", NAME, run).serving


def test_a_promoted_challenger_serves_and_one_kept_aside_does_not(root):
    promoted = challenge(root, "week 2", True)
    kept = challenge(root, "week 3", False)
    assert (promoted.number, promoted.decision, promoted.record["parent"]) == (2, "promoted", 1)
    assert (kept.number, kept.decision, kept.record["parent"], kept.serving) == (3, "kept aside", 2, False)
    assert champions.current(root, NAME).number == 2
    listed = champions.versions(root, NAME)
    assert [(v.number, v.serving, v.problem) for v in listed] == [(1, False, ""), (2, True, ""), (3, False, "")]
    assert champions.resolve(f"champion:{NAME}@3", root) == kept.folder
    assert not (root / NAME / "making").exists()


def test_what_is_recorded_cannot_be_overruled_by_the_caller(root):
    with champions.begin(root, NAME, {}) as making:
        fake_run(making.folder)
        record = {"decision": "promoted", "version": 7, "reason": "worse", "figures": {"gain": float("nan")}}
        kept = champions.settle(making, record, promote=False)
    assert (kept.decision, kept.record["version"]) == ("kept aside", 2)
    assert kept.record["figures"] == {"gain": None}


def test_a_diverged_challenger_is_kept_aside_but_never_promoted(root):
    with champions.begin(root, NAME, {}) as making:
        fake_run(making.folder, status="diverged")
        with pytest.raises(UsageError, match=r"is not a completed run \(diverged\)"):
            champions.settle(making, {"reason": "?"}, promote=True)
        assert champions.settle(making, {"reason": "it diverged"}, promote=False).decision == "kept aside"
    assert champions.current(root, NAME).number == 1


def test_a_challenger_goes_on_with_the_same_data_and_is_removed_for_others(root):
    with champions.begin(root, NAME, {"data": "week 2"}) as making:
        fake_run(making.folder, "half")
        assert (making.number, making.resumed, making.notes) == (2, False, ())
    with champions.begin(root, NAME, {"data": "week 2"}) as making:
        assert making.resumed
        assert making.notes == (f"going on with the challenger that was left in {making.folder}",)
        assert (making.folder / "checkpoints" / "10" / "state" / "arrays").read_text() == "half"
    with champions.begin(root, NAME, {"data": "week 3"}) as making:
        assert not making.resumed
        assert making.notes[0].startswith(f"removed {making.folder.parent}: a challenger of other data")
        assert not making.folder.exists()


def test_a_challenger_of_another_champion_is_not_gone_on_with(root):
    challenge(root, "week 2", True)
    challenge(root, "week 3", None)
    champions.rollback(root, NAME, 1)
    with champions.begin(root, NAME, {"data": "week 3"}) as making:
        assert (making.parent.number, making.resumed) == (1, False)


def test_a_version_is_on_the_disk_before_it_serves(root, synced):
    synced.clear()
    version = challenge(root, "week 2", True)
    home, making = root / NAME, root / NAME / "making" / "run"
    files = {str(making / name) for name in version.record["files"]}
    assert files | {str(making), str(making / "promotion.json"), str(making / "checkpoints" / "10")} <= set(synced)
    *before, new, folder = synced
    assert before[-2:] == [str(home / "versions"), str(home)]
    assert Path(new).name.startswith(".champion.json.")
    assert folder == str(home)


def test_a_rollback_is_recorded_with_its_reason(root):
    challenge(root, "week 2", True)
    version = champions.rollback(root, NAME, 1, "the cameras were changed back")
    assert (version.number, version.serving, champions.current(root, NAME).number) == (1, True, 1)
    last = history(root)[-1]
    assert (last["version"], last["before"], last["act"]) == (1, 2, "rolled back")
    assert last["reason"] == "the cameras were changed back"
    assert [act["act"] for act in history(root)] == ["adopted", "promoted", "rolled back"]
    assert challenge(root, "week 3", False).record["parent"] == 1


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (1, "version 1 of the champion 'digits' serves already"),
        (2, "version 2 of the champion 'digits' was kept aside and has never served; versions that have: 1"),
        (9, "the champion 'digits' has no version '9'; versions: 1, 2"),
    ],
)
def test_a_rollback_that_makes_no_sense_is_refused(root, version, says):
    challenge(root, "week 2", False)
    with pytest.raises(UsageError, match=says):
        champions.rollback(root, NAME, version)
    assert champions.current(root, NAME).number == 1


def test_there_is_nothing_to_challenge_or_roll_back_without_a_champion(tmp_path):
    for act in (lambda: champions.rollback(tmp_path, NAME, 1), lambda: champions.begin(tmp_path, NAME, {}).__enter__()):
        with pytest.raises(UsageError, match=r"there is no champion 'digits' in .*; 'jaxprop retrain RUN --data NEW'"):
            act()
    assert list(tmp_path.iterdir()) == []


def test_a_second_retraining_is_refused_and_readers_are_not(root, tmp_path):
    with champions.begin(root, NAME, {}):
        for act in (
            lambda: champions.begin(root, NAME, {}).__enter__(),
            lambda: champions.rollback(root, NAME, 1),
            lambda: champions.adopt(root, NAME, tmp_path / "run"),
        ):
            with pytest.raises(RunFolderError) as refused:
                act()
            assert f"the champion in {root / NAME} is in use by process {os.getpid()} on " in str(refused.value)
            assert refused.value.exit_code == EXIT_RUNTIME
        assert champions.current(root, NAME).number == 1
        champions.adopt(root, "letters", tmp_path / "run")  # another name is another lock
    assert champions.names(root) == [NAME, "letters"]


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ['{"version": 2, "sett', "", "[]", '{"version": "2"}', '{"version": 7}', "\x00"])
def test_a_damaged_champion_json_is_told_with_the_way_out_and_is_kept_by_the_rollback(root, content):
    challenge(root, "week 2", True)
    challenge(root, "week 3", False)
    (root / NAME / "champion.json").write_text(content)
    way_out = f"'jaxprop champions digits --root {root} --rollback 2' lets version 2 serve"
    for act in (lambda: champions.current(root, NAME), lambda: challenge(root, "week 4", True)):
        with pytest.raises(RunFolderError, match=way_out):
            act()
    assert [v.serving for v in champions.versions(root, NAME)] == [False] * 3
    champions.rollback(root, NAME, 2)
    assert champions.current(root, NAME).number == 2
    assert (root / NAME / "champion.json.damaged-1").read_text() == content
    assert challenge(root, "week 4", True).number == 4


def test_a_champion_json_that_names_a_missing_version_is_told(root):
    challenge(root, "week 2", True)
    shutil.rmtree(root / NAME / "versions" / "0002")
    with pytest.raises(RunFolderError, match=r"names version 2, which is not there; .* --rollback 1' lets version 1"):
        champions.current(root, NAME)
    champions.rollback(root, NAME, 1)
    assert champions.current(root, NAME).number == 1


def test_a_missing_champion_json_of_several_versions_is_a_choice_of_the_person(root):
    challenge(root, "week 2", True)
    (root / NAME / "champion.json").unlink()
    with pytest.raises(RunFolderError, match=r"champion.json is missing, so no version serves; .* --rollback 2'"):
        challenge(root, "week 3", True)
    assert champions.rollback(root, NAME, 1).number == 1


def change(folder):
    (folder / "checkpoints" / "10" / "state" / "arrays").write_text("WEEK 2 2")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change, "checkpoints/10/state/arrays has changed since the version was made"),
        (lambda folder: shutil.rmtree(folder / "checkpoints"), "is missing"),
        (lambda folder: (folder / "config.yaml").unlink(), "config.yaml is missing"),
        (lambda folder: (folder / "checkpoints" / "20").write_text("more"), "20 was added after the version was made"),
        (lambda folder: (folder / "promotion.json").unlink(), "promotion.json is missing"),
        (lambda folder: (folder / "promotion.json").write_text('{"fi'), r"promotion.json cannot be read \(it is not J"),
        (lambda folder: (folder / "promotion.json").write_text("{}"), "promotion.json does not list its files"),
        (lambda folder: [shutil.rmtree(folder), folder.mkdir()], "promotion.json is missing"),
    ],
)
def test_a_damaged_version_is_told_with_the_one_that_can_serve(root, damage, says):
    challenge(root, "week 2", True)
    folder = root / NAME / "versions" / "0002"
    damage(folder)
    with pytest.raises(CheckpointError) as refused:
        champions.current(root, NAME)
    assert f"version 2 of the champion {NAME!r} is damaged" in str(refused.value)
    assert f"--rollback 1' lets version 1 serve, or restore {folder} from a copy" in str(refused.value)
    with pytest.raises(CheckpointError, match=says):
        champions.resolve(f"champion:{NAME}@2", root)
    listed = champions.versions(root, NAME)
    assert [bool(version.problem) for version in listed] == [False, True]
    assert listed[1].serving
    with pytest.raises(CheckpointError):
        challenge(root, "week 3", True)
    with pytest.raises(CheckpointError):
        champions.rollback(root, NAME, 2)
    assert champions.rollback(root, NAME, 1).serving
    assert champions.current(root, NAME).number == 1


def test_without_another_version_a_copy_is_the_way_out(root):
    change(root / NAME / "versions" / "0001")
    with pytest.raises(CheckpointError, match=r"no other version can serve; restore .*0001 from a copy"):
        champions.current(root, NAME)


def test_a_disk_that_cannot_be_written_leaves_the_champion(root, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", str(root))

    with champions.begin(root, NAME, {}) as making:
        fake_run(making.folder)
        with monkeypatch.context() as patched:
            patched.setattr(champions, "write_whole", full)
            with pytest.raises(RunFolderError, match=r"cannot be changed \(No space left on device: .*the one it was"):
                champions.settle(making, {"reason": ""}, promote=True)
        assert champions.current(root, NAME).number == 1
        assert champions.settle(making, {"reason": ""}, promote=True).number == 2


# -- killed ---------------------------------------------------------------------------------------


def check(root):
    """Every champion has one version that serves, and all versions are whole; returns it for the one of the tests."""
    for name in champions.names(root):
        home = root / name
        if (home / "champion.json").exists():
            serving = champions.current(root, name)
            listed = champions.versions(root, name)
            assert [v.number for v in listed if v.serving] == [serving.number]
            assert [read_version(home, v.number, deep=True).problem for v in listed] == [""] * len(listed)
            assert history(root, name)[-1]["version"] == serving.number
        else:  # the adoption was killed before its last step, so there has been no champion yet
            with pytest.raises(JaxpropError):
                champions.current(root, name)
    return champions.current(root, NAME)


def check_goes_on(root):
    """The next acts succeed, after which nothing of the killed ones is left."""
    for name in os.listdir(root):
        if not (root / name / "champion.json").exists():
            assert champions.adopt(root, name, root / ".." / "run").number == 1
    challenge(root, "next week", True)
    for home in root.iterdir():
        assert set(os.listdir(home)) <= {".lock", "champion.json", "versions"}
    check(root)


@pytest.mark.parametrize("act", list(champion_acts.ACTS))
def test_ended_at_each_change_of_a_file_an_act_has_happened_or_not(root, ask, act):
    challenge(root, "week 2", True)
    before = champions.current(root, NAME)
    for stop in range(100):
        here = root.with_name(f"champions-{stop}")
        shutil.copytree(root, here)
        _, wait = ask(here, act=act, stop=stop)
        status = wait()
        assert status in (0, STOPPED)
        after = check(here)
        assert after.number in {"promote": (2, 3), "roll back": (2, 1)}.get(act, (2,))
        assert answer_of(after) == {1: "weights", 2: answer_of(before), 3: "next week 3"}[after.number]
        check_goes_on(here)
        shutil.rmtree(here)
        if status == 0:
            break
    assert stop > (3 if act == "roll back" else 6)
    assert status == 0
    assert {"promote": 3, "roll back": 1}.get(act, 2) == after.number


def test_killed_at_any_moment_exactly_one_champion_serves(root, ask):
    draw, seen = random.Random(0), set()
    for kill in range(KILLS):
        if kill % 5 == 0:
            here = root.with_name(f"champions-{kill}")
            shutil.copytree(root, here)
        pid, wait = ask(here)
        time.sleep(draw.uniform(0.0, 0.05))
        os.kill(pid, signal.SIGKILL)
        assert wait() == -signal.SIGKILL
        check(here)
        seen |= {act["act"] for act in history(here)}
        if kill % 5 == 4:
            check_goes_on(here)
    assert {"adopted", "promoted", "rolled back"} <= seen


def killed_before_it_serves(root, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(champions, "_serve", killed)
        with pytest.raises(KeyboardInterrupt):
            challenge(root, "week 2", True)


def test_a_promotion_killed_before_its_last_step_is_finished_by_the_next_act_which_says_so(root, monkeypatch):
    killed_before_it_serves(root, monkeypatch)
    assert champions.current(root, NAME).number == 1
    with champions.begin(root, NAME, {}) as making:
        assert making.parent.number == 2
        assert making.notes[0] == "version 2 serves now: the process that had promoted it was killed"
    assert history(root)[-1]["act"] == "promoted"


def test_an_adoption_killed_before_its_last_step_is_finished_by_the_same_and_not_by_another(tmp_path, monkeypatch):
    root, run, other = tmp_path / "champions", fake_run(tmp_path / "run"), fake_run(tmp_path / "other")
    for adopted in (run, other):
        with monkeypatch.context() as patched:
            patched.setattr(champions, "_serve", lambda *_, **__: None)
            with pytest.raises(RunFolderError, match=r"champion.json is missing"):
                champions.adopt(root, NAME, run)
        if adopted == run:
            assert champions.adopt(root, NAME, run).serving
            shutil.rmtree(root)
    with pytest.raises(UsageError, match=r"there is a champion 'digits' in .* already"):
        champions.adopt(root, NAME, other)
    assert champions.current(root, NAME).record["from"] == str(run)


def test_a_promotion_killed_before_its_last_step_and_damaged_since_does_not_serve(root, monkeypatch):
    killed_before_it_serves(root, monkeypatch)
    change(root / NAME / "versions" / "0002")
    with champions.begin(root, NAME, {}) as making:
        assert making.parent.number == 1
        assert "so it does not serve, although it was about to" in making.notes[0]


def test_a_rollback_does_not_bring_back_what_it_has_left(root):
    challenge(root, "week 2", True)
    roll_back(root)
    with champions.begin(root, NAME, {}) as making:
        assert (making.parent.number, making.notes) == (1, ())


def test_champions_imports_no_jax():
    code = "import sys, jaxprop.run.champions; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_default_root_is_beside_the_runs_or_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("JAXPROP_CHAMPIONS", raising=False)
    assert champions.default_root() == Path("runs/champions")
    monkeypatch.setenv("JAXPROP_CHAMPIONS", str(tmp_path / "kept"))
    version = champions.adopt(None, NAME, fake_run(tmp_path / "run"))
    assert version.folder == tmp_path / "kept" / NAME / "versions" / "0001"
