import os

from jaxprop.checkpoint import folder
from jaxprop.untrusted.writes import write_whole


def make(path, *names):
    for name in names:
        (path / name / "state").mkdir(parents=True)


def test_only_canonical_decimal_names_are_steps(tmp_path):
    make(tmp_path, "0", "7", "100", "007", "1e3", "٣", "+5", "-1", " 8", "9 ", "1_0", "²", "99.orbax-checkpoint-tmp-1")
    (tmp_path / "12").mkdir()  # empty
    (tmp_path / "13").write_text("")
    (tmp_path / "14").symlink_to(tmp_path / "7")
    (tmp_path / ("9" * 40)).mkdir()
    assert folder.steps_in(tmp_path) == [0, 7, 100]
    strays = {"007", "1e3", "٣", "+5", "-1", " 8", "9 ", "1_0", "²", "99.orbax-checkpoint-tmp-1", "12", "13", "14"}
    assert set(folder.strays_in(tmp_path)) == strays | {"9" * 40}


def test_what_is_our_own_is_no_stray(tmp_path):
    for name in ("todelete", "damaged", ".saving-0f", ".DS_Store"):
        (tmp_path / name).mkdir()
    assert folder.strays_in(tmp_path) == folder.steps_in(tmp_path) == []
    assert folder.leftovers_in(tmp_path) == [tmp_path / ".saving-0f"]
    assert folder.strays_in(tmp_path / "none") == folder.steps_in(tmp_path / "none") == []


def test_a_name_that_is_taken_is_counted_up(tmp_path):
    make(tmp_path, "900", "900-2")
    (tmp_path / "900-3").symlink_to("nowhere")
    assert folder.unused(tmp_path / "900").name == "900-4"
    assert folder.unused(tmp_path / "800").name == "800"


def test_a_link_is_removed_and_not_what_it_points_at(tmp_path):
    make(tmp_path, "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    folder.remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    folder.remove(tmp_path / "kept")
    folder.remove(tmp_path / "kept")
    assert not list(tmp_path.iterdir())


def test_what_is_still_written_into_is_removed_in_the_end(tmp_path, monkeypatch):
    """As a thread of Orbax does whose save has failed: `rmtree` finds a folder that is not empty again."""
    place, removed = tmp_path / ".saving-0f", []
    place.mkdir()

    def rmtree(path, ignore_errors):
        removed.append(path)
        if len(removed) == 3:
            path.rmdir()

    monkeypatch.setattr(folder.shutil, "rmtree", rmtree)
    folder.remove_while_written(place)
    assert removed == 3 * [place]
    assert not place.exists()
    folder.remove_while_written(place)
    assert len(removed) == 3
    place.mkdir()
    folder.remove_while_written(place, seconds=0.05)  # given up: the next run removes it
    assert place.exists()


def test_links_are_found_wherever_they_lie(tmp_path):
    make(tmp_path, "5")
    assert folder.holds_link(tmp_path) is None
    (tmp_path / "5" / "state" / "d").symlink_to("/etc")
    assert folder.holds_link(tmp_path) == "5/state/d"


def test_what_is_written_is_synced_before_it_has_its_name(tmp_path, monkeypatch):
    acts, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda descriptor: (acts.append("sync"), fsync(descriptor))[1])
    monkeypatch.setattr("os.replace", lambda *names: (acts.append("rename"), replace(*names))[1])
    write_whole(tmp_path / "a", "text", durable=True)
    assert acts == ["sync", "rename", "sync"]
    assert (tmp_path / "a").read_text() == "text"
    acts.clear()
    folder.sync_all(tmp_path)
    assert acts == ["sync", "sync"]
