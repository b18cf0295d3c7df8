"""The page of a folder's history."""

from jaxprop.bench.document import Row
from jaxprop.bench.history import history
from jaxprop.bench.render.history import ends, history_page, plot, table
from tests.bench.documents import EVIL, make_document, make_row, save


def followed(tmp_path, *rows):
    for i, row in enumerate(rows):
        document = make_document(row, started=f"2026-11-{i + 1:02}T12:00:00+00:00", commit=f"{i}{EVIL}")
        save(document, tmp_path / f"{i}.json")
    return history(tmp_path)


def test_a_plot_a_figure_and_a_table(tmp_path):
    (tmp_path / "bad.json").write_text("<b>")
    found = followed(tmp_path, make_row(), make_row(seconds=0.02, seed=1), make_row(seconds=0.02, seed=2))
    text = history_page(found, "History of <x>")
    assert "<h1>History of &lt;x&gt;</h1>" in text
    assert text.count("<svg") == 1
    assert "is cut off or is not JSON" in text
    assert "<img" not in text
    assert "3 documents, the earliest first." in text
    (track,) = found.groups[0].tracks
    drawn = plot(track)
    assert [point.x for point in drawn.lines[0].points] == [0, 1, 2]
    assert drawn.y_label == "ms, lower is better"
    (cells,) = table(found.groups[0]).rows
    assert cells[2] == "3"
    assert cells[5].startswith("+9")
    assert cells[6] == "slower"


def test_a_figure_measured_once_has_no_plot(tmp_path):
    found = followed(tmp_path, make_row())
    assert "<svg" not in history_page(found, "x")
    assert ends(found.groups[0].tracks[0])[2:] == ["", ""]


def test_a_figure_that_was_never_measured(tmp_path):
    found = followed(tmp_path, Row(section="train", name="step", status="out_of_memory"))
    assert ends(found.groups[0].tracks[0]) == ["", "out of memory", "", ""]
    assert "out of memory" in history_page(found, "x")
