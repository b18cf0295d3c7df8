import re
import sys

import pytest

from jaxprop.cli.tables import shorten, show, size


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1.5 * 2**30, "1.5 GiB"), (2**60, "1048576.0 TiB")],
)
def test_sizes(count, text):
    assert size(count) == text


def test_a_size_that_is_not_known():
    assert size(None) == "unknown"
    assert size(None, "untold") == "untold"


@pytest.mark.parametrize(
    ("first", "last", "kept", "left_out"),
    [(2, 2, [0, 1, 4, 5], 2), (2, 1, [0, 1, 5], 3), (2, 0, [0, 1], 4), (3, 3, [*range(6)], 0), (9, 9, [*range(6)], 0)],
)
def test_both_ends_of_long_tables(first, last, kept, left_out):
    assert shorten(range(6), first, last) == (kept, left_out)


def test_a_pipe_gets_whole_lines_and_a_terminal_its_width(capsys, monkeypatch):
    row = ("a" * 150, "[bold]b" * 10)
    show(["x", "y"], [row])
    assert " ".join(row) in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    show(["x", "y"], [row])
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, plain.splitlines())) <= 60


def test_nothing_is_shown_of_a_table_without_rows(capsys):
    show(["x"], [])
    assert capsys.readouterr().out == ""
