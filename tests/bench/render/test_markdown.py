"""A document as Markdown: everything of it is there, and nothing of it acts."""

import itertools

from jaxprop.bench.render.markdown import escaped, markdown, table_lines
from jaxprop.bench.render.tables import Table
from tests.bench.documents import EVIL, device_document, make_document, make_row, train_document


def test_sections_notes_environment_and_method():
    text = markdown(device_document())
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings[0] == "# NVIDIA H100 80GB HBM3: what the device can do"
    assert [heading.split(",")[0] for heading in headings[1:3]] == ["## matmul", "## not measured"]
    assert headings[-3:] == ["## Notes", "## Environment", "## Method"]
    assert "| int8 256 | no kernel |" in text
    assert "- temperature cannot be read" in text
    assert "python 3.12.1, jax 0.10.2" in text
    assert "median of all its samples" in text


def test_every_row_of_a_table_has_a_cell_a_column():
    for document in (device_document(), train_document()):
        lines = markdown(document).splitlines()
        for line, after in itertools.pairwise(lines):
            if line.startswith("|") and after.startswith("|"):
                assert line.replace("\\|", "").count("|") == after.replace("\\|", "").count("|")


def test_no_text_leaves_its_cell():
    text = markdown(make_document(make_row(EVIL), notes=[EVIL, "two\nlines"], versions={"jax": EVIL}))
    assert "<img" not in text.replace("\\<img", "")
    assert "\n- two lines\n" in text
    assert escaped("a|b\n*c*") == r"a\|b \*c\*"
    assert "\x1b" not in text


def test_numbers_are_aligned_to_the_right():
    assert list(table_lines(Table("t", ["what", "n", "why"], [["1 a", "2 ms", "x"]])))[1] == "|---|---:|---|"


def test_an_empty_document_is_no_error():
    assert "## Environment" in markdown(make_document(complete=False))
