"""The same rows as a file of every format."""

import csv
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

FORMATS = ("csv", "semicolon", "tsv", "jsonl", "parquet")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Paths in a config are relative to the current directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write():
    """Returns a function: name, format, names of columns, rows of values (None: missing) -> the file's name."""

    def written(name, kind, names, rows):
        if kind == "parquet":
            columns = [[row[i] for row in rows] for i in range(len(names))]
            parquet.write_table(pa.table({n: pa.array(c) for n, c in zip(names, columns, strict=True)}), f"{name}.pq")
            return f"{name}.pq"
        if kind == "jsonl":
            lines = [json.dumps({n: v for n, v in zip(names, row, strict=True) if v is not None}) for row in rows]
            return _text(f"{name}.jsonl", "\n".join(lines) + "\n")
        suffix, delimiter = {"csv": ("csv", ","), "semicolon": ("csv", ";"), "tsv": ("tsv", "\t")}[kind]
        with open(f"{name}.{suffix}", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(names)
            writer.writerows([["" if value is None else _shown(value) for value in row] for row in rows])
        return f"{name}.{suffix}"

    return written


def _text(name, content):
    with open(name, "w", encoding="utf-8") as file:
        file.write(content)
    return name


def _shown(value):
    return str(value).lower() if isinstance(value, bool) else value
