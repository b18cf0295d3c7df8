"""Figures over all documents of a folder: in the order of time, machine by machine, past damaged files."""

import pytest

from jaxprop.bench.document import Row
from jaxprop.bench.history import history, machine, ordered, sparkline
from jaxprop.errors import UsageError
from tests.bench.documents import make_document, make_row, save


def folder_of(path, *documents):
    for i, document in enumerate(documents):
        save(document, path / f"{i}.json")
    return path


def day(number, *rows, **changed):
    return make_document(*rows, started=f"2026-11-{number:02}T12:00:00+00:00", commit=f"{number:012}", **changed)


def test_figures_in_the_order_of_time(tmp_path):
    slower = make_row(seconds=0.012, seed=2)
    found = history(folder_of(tmp_path, day(3, slower), day(1, make_row()), day(2, make_row(seed=1), make_row("new"))))
    (group,) = found.groups
    assert (group.command, group.documents, found.damaged) == ("train", 3, [])
    step, new = group.tracks
    assert [entry.commit[-1] for entry in step.entries] == ["1", "2", "3"]
    assert [entry.file for entry in step.entries] == ["1.json", "2.json", "0.json"]
    assert step.change == pytest.approx(0.2, rel=0.05)
    assert step.line.verdict == "slower"
    assert (new.name, len(new.entries), new.change, new.line) == ("new", 1, None, None)


def test_machines_and_commands_lie_apart(tmp_path):
    documents = [
        day(1, make_row()),
        day(2, make_row(), kinds=("NVIDIA A100",)),
        day(3, make_row(), command="device"),
        day(4, make_row(), host={"affinity": "0"}),
    ]
    groups = history(folder_of(tmp_path, *documents)).groups
    assert sorted(group.command for group in groups) == ["device", "train", "train", "train"]
    assert all(group.documents == 1 for group in groups)
    assert len({(group.command, group.machine) for group in groups}) == 4
    assert machine(documents[1]).startswith("devices 1 x NVIDIA A100; processor AMD EPYC 9554")


def test_rows_of_other_overrides_lie_apart(tmp_path):
    def wide(number, **arguments):
        slow, peak = make_row(seconds=0.02, seed=number), make_row("peak", section="matmul", seed=number)
        return day(number, slow, peak, make_row("attention", section="roofline"), arguments=arguments)

    documents = [
        day(1, make_row(), make_row("peak", section="matmul"), arguments={"targets": "digits_mlp"}),
        wide(2, targets="b.lr=0.1 digits_mlp a=[2]"),  # as jaxprop wrote it before the overrides had their own place
        day(3, make_row(seed=3), arguments={"targets": "digits_mlp", "overrides": None}),
        wide(4, targets="digits_mlp", overrides="a=[2] b.lr=0.1"),
    ]
    (group,) = history(folder_of(tmp_path, *documents)).groups
    files = {track.what: [entry.file[0] for entry in track.entries] for track in group.tracks}
    assert files == {
        "train: step": ["0", "2"], "train: step, a=[2] b.lr=0.1": ["1", "3"], "matmul: peak": ["0", "1", "3"],
        "roofline: attention, a=[2] b.lr=0.1": ["1", "3"],
    }  # fmt: skip
    assert [track.line.verdict for track in group.tracks if track.section == "train"] == ["same", "same"]


def test_a_row_that_broke_is_followed(tmp_path):
    broken = Row(section="train", name="step", status="out_of_memory", unit="ms", better="lower")
    (group,) = history(folder_of(tmp_path, day(1, make_row()), day(2, make_row()), day(3, broken))).groups
    (track,) = group.tracks
    assert (len(track.entries), len(track.measured)) == (3, 2)
    assert track.entries[-1].row.status == "out_of_memory"


def test_a_row_whose_last_document_has_no_figure_has_no_change(tmp_path):
    broken = make_row().model_copy(update={"value": None, "status": "out_of_memory", "message": "does not fit"})
    (group,) = history(folder_of(tmp_path, day(1, make_row()), day(2, make_row()), day(3, broken))).groups
    (track,) = group.tracks
    assert track.change is None
    assert track.line.verdict == "broken"


def test_damaged_files_are_named_and_skipped(tmp_path):
    folder_of(tmp_path, day(1, make_row()))
    (tmp_path / "cut.json").write_text((tmp_path / "0.json").read_text()[:100])
    (tmp_path / "other.json").write_text('{"schema": "pytest-benchmark"}')
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "notes.txt").write_text("no document")
    found = history(tmp_path)
    assert [one.name for one in found.damaged] == ["binary.json", "cut.json", "folder.json", "other.json"]
    assert "is cut off" in found.damaged[1].reason
    assert "has the schema 'pytest-benchmark'" in found.damaged[3].reason
    assert found.groups[0].documents == 1


def test_a_folder_without_documents(tmp_path):
    with pytest.raises(UsageError, match=r"holds no document of `jaxprop bench` \(\*\.json\)$"):
        history(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UsageError, match=r"the first of 1 files: .*a\.json: is cut off"):
        history(tmp_path)
    with pytest.raises(UsageError, match="is a file; give a folder"):
        history(tmp_path / "a.json")
    with pytest.raises(UsageError, match="there is no such folder; give a folder"):
        history(tmp_path / "nowhere")


def test_equal_times_are_in_the_order_of_names():
    same = day(1, make_row())
    assert [name for name, _ in ordered([("b", same), ("a", same)])] == ["a", "b"]


def test_a_sparkline_shows_the_latest():
    assert sparkline([1.0]) == "▁"
    assert sparkline([9.0] * 10 + [float(i) for i in range(40)]) == sparkline([float(i) for i in range(40)])
    assert sparkline([0, 7], plain=True) == "_#"
