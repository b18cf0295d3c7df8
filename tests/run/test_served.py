"""What a champion's folder says, read without changing it; what changes it is in test_champions.py."""

import json
import os
from pathlib import Path

import pytest

from jaxprop.errors import EXIT_RUNTIME, EXIT_USAGE, JaxpropError, UsageError
from jaxprop.run import champions, served
from tests.run.champion_acts import challenge, fake_run

NAME = "digits"


@pytest.fixture
def root(tmp_path):
    """Version 1 adopted, 2 promoted and serving, 3 kept aside."""
    champions.adopt(tmp_path / "champions", NAME, fake_run(tmp_path / "run"))
    challenge(tmp_path / "champions", "week 2", True)
    challenge(tmp_path / "champions", "week 3", False)
    return tmp_path / "champions"


@pytest.mark.parametrize(
    "name", ["a/b", "../a", "", ".", "..", ".hidden", "a b", "a@2", "a\n", "-a", "é", "a" * 101, "a:b"]
)
def test_a_name_that_is_no_folder_is_refused_with_one_that_is(tmp_path, name):
    for act in (
        lambda: champions.adopt(tmp_path, name, tmp_path),
        lambda: champions.current(tmp_path, name),
        lambda: champions.versions(tmp_path, name),
        lambda: champions.rollback(tmp_path, name, 1),
    ):
        with pytest.raises(UsageError, match=r"cannot be the name of a champion: expected letters.*such as '[\w.-]+'$"):
            act()
    assert list(tmp_path.iterdir()) == []


def test_the_name_that_is_offered_is_near():
    with pytest.raises(UsageError, match=r"such as 'our-digits-v2'$"):
        served.home_of(Path("x"), "our digits/v2")


@pytest.mark.parametrize(
    ("text", "folder"), [("champion:digits", "0002"), ("champion:digits@1", "0001"), ("champion:digits@0003", "0003")]
)
def test_what_a_champion_in_the_place_of_a_run_means(root, text, folder):
    assert served.resolve(text, root) == root / NAME / "versions" / folder


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("champion:digts", r"there is no champion 'digts' in .*; did you mean 'digits'\? \(champions: digits\); 'jaxp"),
        ("champion:digits@4", r"the champion 'digits' has no version '4'; versions: 1, 2, 3$"),
        ("champion:digits@", r"has no version ''; versions: 1, 2, 3$"),
        ("champion:digits@two", r"has no version 'two'"),
        ("champion:digits@-1", r"has no version '-1'"),
        ("champion:digts@1", r"there is no champion 'digts'"),
        ("champion:", r"'' cannot be the name of a champion"),
        ("champion:a/b@1", r"'a/b' cannot be the name of a champion: .* such as 'a-b'$"),
    ],
)
def test_what_is_no_champion_is_told(root, text, says):
    with pytest.raises(UsageError, match=says) as refused:
        served.resolve(text, root)
    assert refused.value.exit_code == EXIT_USAGE


def test_damage_is_no_mistake_of_the_command_line(root):
    (root / NAME / "champion.json").write_text("{")
    with pytest.raises(JaxpropError) as refused:
        served.resolve("champion:digits", root)
    assert refused.value.exit_code == EXIT_RUNTIME
    assert served.resolve("champion:digits@1", root).name == "0001"  # which does not depend on it


def test_names_are_those_of_folders_with_a_champion(root, tmp_path):
    (root / "empty").mkdir()
    (root / "file").write_text("")
    (root / "lost" / "versions" / "0001").mkdir(parents=True)
    assert served.names(root) == [NAME, "lost"]
    assert served.names(tmp_path / "nowhere") == []
    with pytest.raises(UsageError, match="cannot be read as a folder of champions"):
        served.names(root / "file")


def test_the_way_out_is_the_newest_version_that_has_served_and_is_whole(root, monkeypatch):
    home = root / NAME
    assert "--rollback 2' lets version 2 serve" in served.way_out(home)
    assert "--rollback 1' lets version 1 serve" in served.way_out(home, 2)
    (home / "versions" / "0001" / "summary.json").write_text("{}")
    assert served.way_out(home, 2) == f"no other version can serve; restore {home / 'versions' / '0002'} from a copy"
    monkeypatch.setenv("JAXPROP_CHAMPIONS", str(root))
    assert served.way_out(home).startswith("'jaxprop champions digits --rollback 2' lets")


def test_the_contents_of_the_version_that_serves_are_compared_and_the_sizes_of_the_others(root):
    def damage(number, text):
        (root / NAME / "versions" / f"{number:04d}" / "checkpoints" / "10" / "state" / "arrays").write_text(text)

    damage(1, "WEIGHTS")  # of the same length
    damage(2, "WEEK 2 2")
    damage(3, "longer than it was")
    assert [bool(version.problem) for version in served.versions(root, NAME)] == [False, True, True]
    assert served.read_version(root / NAME, 1, deep=True).problem.endswith("has changed since the version was made)")


def test_files_that_no_answer_depends_on_may_be_added(root):
    folder = root / NAME / "versions" / "0002"
    (folder / "report.html").write_text("")
    (folder / "metrics.jsonl").write_text("")
    (folder / "exports").mkdir()
    assert served.current(root, NAME).problem == ""


def test_a_link_in_a_version_is_damage(root):
    folder = root / NAME / "versions" / "0002"
    os.rename(folder / "config.yaml", folder / "other.yaml")
    os.symlink("other.yaml", folder / "config.yaml")
    with pytest.raises(JaxpropError, match=r"0002/config.yaml cannot be read \(it is a link"):
        served.current(root, NAME)


def test_a_link_in_the_place_of_a_folder_of_checkpoints_is_damage(root):
    folder = root / NAME / "versions" / "0002" / "checkpoints"
    os.rename(folder / "10", folder.parent / "10")
    os.symlink("../10", folder / "10")
    with pytest.raises(JaxpropError, match=r"version 2 of the champion 'digits' is damaged"):
        served.current(root, NAME)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"version": true, "settled": 1, "history": []}', "null", "\xff"])
def test_anything_may_stand_in_champion_json(root, content):
    (root / NAME / "champion.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(JaxpropError, match=r"--rollback 2' lets version 2 serve"):
        served.current(root, NAME)


def test_what_a_record_says_is_shown_without_control_characters(root):
    path = root / NAME / "versions" / "0002" / "promotion.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "files": {"\x1b[31m": "1 a"}}))
    assert "\x1b" not in served.versions(root, NAME)[1].problem
