import shutil

import pytest

from jaxprop.errors import UsageError
from jaxprop.run import champions
from jaxprop.tools.champions import compared, list_champions, tell, text_of
from tests.run.champion_acts import fake_run

NAME = "digits"
FIGURES = {
    "old": {"metric": "accuracy", "champion": 0.9, "challenger": 0.91, "difference": 0.01, "examples": 1797},
    "new": {
        "metric": "accuracy",
        "champion": 0.8,
        "challenger": 0.95,
        "difference": 0.15,
        "interval": [0.1, 0.2],
        "level": 0.9,
    },
}


def challenge(root, reason, promote, config="task: {name: classify}\n", **told):
    with champions.begin(root, NAME, {}) as making:
        fake_run(making.folder)
        (making.folder / "config.yaml").write_text(config)
        data = {"old": ["0123456789abcdef", "abcd"], "new": "fedc"}
        suspects = {"count": 12, "examples": 1500, "share": 0.008}
        record = {"reason": reason, "data": data, "figures": FIGURES, "suspects": suspects, **told}
        return champions.settle(making, record, promote=promote)


@pytest.fixture
def root(tmp_path):
    run = fake_run(tmp_path / "run")
    (run / "prepared.json").write_text('{"fingerprint": "f00d"}')
    champions.adopt(tmp_path / "champions", NAME, run)
    challenge(tmp_path / "champions", "better on the new data", True, "task: {name: classify}\nrun: {epochs: 3}\n")
    challenge(tmp_path / "champions", "worse on the old data", False)
    return tmp_path / "champions"


def test_every_version_is_told_with_its_data_figures_reason_and_what_changed_in_its_config(root):
    (first, second, third), history, problem = tell(root, NAME)
    assert (first.decision, first.parent, first.data, first.config) == ("adopted", None, {"train": "f00d"}, [])
    assert (second.serving, second.decision, second.reason) == (True, "promoted", "better on the new data")
    assert (second.parent, second.config) == (1, ['run: (not set) -> {"epochs": 3}'])
    assert second.figures == FIGURES
    assert (third.serving, third.decision, third.parent) == (False, "kept aside", 2)
    assert third.config == ['run: {"epochs": 3} -> (not set)']
    assert [act["version"] for act in history] == [1, 2]
    assert problem == ""


def test_the_text_has_all_of_it(root):
    told, history, _ = tell(root, NAME)
    text = text_of(NAME, told, history)
    head, first, second, third, past = text.split("\n\n")
    assert head == "champion digits: version 2 serves"
    assert first.startswith("  version 1: adopted 20")
    assert "data     train f00d" in first
    lines = second.splitlines()
    assert lines[0].startswith("* version 2: promoted 20")
    assert lines[0].endswith(", against version 1")
    assert [line.strip() for line in lines[1:]] == [
        "why      better on the new data",
        "figures  old: accuracy 0.9 -> 0.91, gain +0.01, 1,797 examples",
        "figures  new: accuracy 0.8 -> 0.95, gain +0.15 (90% interval +0.1 to +0.2)",
        "labels   12 of 1,500 new ones may be wrong",
        "data     old 0123456789ab + abcd, new fedc",
        'config   run: (not set) -> {"epochs": 3}',
        f"run      {root / NAME / 'versions' / '0002'}",
    ]
    assert third.splitlines()[1] == "    why      worse on the old data"
    assert past.splitlines()[0] == "history"
    assert past.splitlines()[2].endswith("version 2 promoted, in the place of version 1: better on the new data")


def test_many_changed_keys_are_shortened(root):
    challenge(root, "other", False, "a: {" + ", ".join(f"k{i}: {i}" for i in range(30)) + "}\nrun: {epochs: 3}\n")
    told, history, _ = tell(root, NAME)
    assert [len(one.config) for one in told] == [0, 1, 1, 2]  # a section that is added is one change
    challenge(root, "other", False, "".join(f"k{i}: {i}\n" for i in range(30)))
    told, history, _ = tell(root, NAME)
    text = text_of(NAME, told, history)
    assert "config   and 20 more keys" in text
    cut = [line for line in text.splitlines() if line.endswith("...")]
    assert [line.partition(": ")[0] for line in cut] == ["    config   a"]
    assert len(cut[0]) < 130 < len(told[3].config[1])


def test_a_retraining_is_told_by_its_data_and_without_the_keys_that_each_sets(root):
    config = "data: {train: a.csv}\nrun: {init_from: {from: a}, epochs: 3}\ntask: {name: classify}\n"
    challenge(root, "other", True, config, new_data="/weeks/2")
    changed = config.replace("a.csv", "b.csv").replace("from: a", "from: b").replace("epochs: 3", "epochs: 4")
    challenge(root, "again", False, changed, new_data="/weeks/3", replay=0.3)
    told, history, _ = tell(root, NAME)
    text = text_of(NAME, told, history).split("\n\n")
    assert "    trained  /weeks/2\n" in text[4]
    assert "    trained  /weeks/3, with 0.3 of old examples\n" in text[5]
    shown = [line.split()[1:] for line in text[5].splitlines() if "  config " in line]
    assert shown == [["run.epochs:", "3", "->", "4"]]
    assert len(told[4].config) == 3


def test_each_champion_has_one_line(root, tmp_path):
    champions.adopt(root, "letters", tmp_path / "run")
    champions.rollback(root, NAME, 1, "the cameras were changed back")
    digits, letters = list_champions(root)
    assert (digits.name, digits.serving, digits.promoted, digits.kept_aside) == (NAME, 1, 2, 1)
    assert (digits.act, digits.reason) == ("rolled back", "the cameras were changed back")
    assert digits.problem == letters.problem == ""
    assert (letters.name, letters.serving, letters.promoted, letters.kept_aside) == ("letters", 1, 1, 0)
    with pytest.raises(UsageError, match="there is no such folder of champions"):
        list_champions(tmp_path / "nowhere")


def test_a_damaged_champion_is_listed_with_its_problem(root):
    shutil.rmtree(root / NAME / "versions" / "0002" / "checkpoints")
    (line,) = list_champions(root)
    assert line.serving is None
    assert "is damaged" in line.problem
    assert "--rollback 1'" in line.problem
    told, history, problem = tell(root, NAME)
    assert problem == line.problem
    assert "problem  version 2 of the champion" in text_of(NAME, told, history)
    (root / NAME / "champion.json").write_text("{")
    (root / NAME / "versions" / "0001" / "config.yaml").write_text("{")
    told, history, problem = tell(root, NAME)
    text = text_of(NAME, told, history)
    assert "no version serves" in text
    assert "no history can be read" in text
    assert f"config   cannot be read: {root}" in text


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (0.5, "0.5"),
        (None, "unknown"),
        ("n/a", "n/a"),
        ({"champion": None, "challenger": 0.5}, "unknown -> 0.5"),
        ({"challenger": 0.5, "champion": 0.25, "difference": 0.25, "interval": "none"}, "0.25 -> 0.5, gain +0.25"),
        ({"accuracy": True}, "accuracy True"),
    ],
)
def test_figures_of_any_form_are_shown(figure, text):
    assert compared(figure) == text
