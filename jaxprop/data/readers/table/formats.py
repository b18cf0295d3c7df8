"""Opens a table of any format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxprop.data.kinds import HEAD, KINDS, advice, format_of, unfit
from jaxprop.data.readers.table.delimited import open_delimited, sniff
from jaxprop.data.readers.table.files import Content, Table, arrow, cached, content_of
from jaxprop.data.readers.table.json_lines import open_json_lines
from jaxprop.data.readers.table.parquet import open_parquet
from jaxprop.errors import DataError


def open_table(path: str, delimiter: str | None = None, *, needed: Sequence[str] | None = None) -> Table:
    """Opens a CSV, TSV, JSONL or Parquet file; its content tells its format, and then its name.

    Args:
      path: a file, `-` for standard input (CSV or JSONL), or a table inside scikit-learn such as `sklearn:iris.csv`.
      delimiter: between the values of a CSV file; by default found from its first lines.
      needed: columns from which records are to be predicted. What makes one of these records unusable is then no error
        of the file, and a delimiter that is given is one of those that may be.

    Raises:
      DataError: the file is missing, empty, of another kind, or has no usable header.
      MissingExtraError: pyarrow is not installed.

    Example:
      >>> import pathlib, tempfile
      >>> file = pathlib.Path(tempfile.mkdtemp()) / "small.csv"
      >>> _ = file.write_text("size;color\\n1;red\\n2;blue\\n")
      >>> table = open_table(str(file))
      >>> table.columns, [block.lines.tolist() for block in table.blocks()]
      (('size', 'color'), [[2, 3]])
    """
    if needed is not None and Path(path).expanduser().is_dir() and (why := unfit(path, "table")) is not None:
        raise DataError(f"{path}: {why}")
    return open_content(content_of(path), delimiter, needed=needed)


def open_content(content: Content, delimiter: str | None = None, *, needed: Sequence[str] | None = None) -> Table:
    """Opens the bytes of a table, as `open_table` does those of a file."""
    with content.open() as file:
        found = format_of(content.name, file.read(HEAD))
    if found == "empty":
        raise DataError(f"{content.name}: the file is empty; expected a header line and at least one row")
    arrow()  # after the file, which is the more likely to be missing
    if found == "parquet":
        return open_parquet(content)
    if found == "jsonl":
        return cached(open_json_lines(content, needed=needed), content)
    # Text of one column has no delimiter to know it by; rows to predict may be such.
    if found in ("csv", "tsv", "text"):
        delimiter = delimiter or ("\t" if found == "tsv" else None)
        if needed is not None:
            delimiter = sniff(content, *filter(None, [delimiter]))
        return cached(open_delimited(content, delimiter, to_predict=needed is not None), content)
    kind = KINDS[found]
    told = f"is {kind.what}; {kind.keys}" if content.path is None else advice(content.name, "table")
    if needed is not None and content.path is not None:
        told = unfit(content.path, "table") or told
    raise DataError(f"{content.name}: {told}")
