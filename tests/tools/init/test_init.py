"""What is at a path decides which configuration is made; a path without a reader is a sentence."""

import pytest

from jaxprop.data.kinds import KINDS
from jaxprop.errors import UsageError
from jaxprop.tools.init import WRITERS, starter


def test_every_kind_with_a_reader_has_a_writer():
    assert {kind.reader for kind in KINDS.values() if kind.reader is not None} == set(WRITERS)


def test_a_path_that_no_reader_reads_is_told_with_what_to_do(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match=r"a\.xlsx: is a workbook of a spreadsheet program; save the sheet as CSV"):
        starter(str(tmp_path / "a.xlsx"), "a")
