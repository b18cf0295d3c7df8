"""Records of every kind of file: named by their lines, and one clear sentence for each way a file can be wrong."""

import json
import sys
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxprop.data import records
from jaxprop.data.bad import BadRecords
from jaxprop.errors import DataError, JaxpropError, MissingExtraError

ROWS = [("a dull, long film", "bad"), ('she said "go"', "good"), ("zwei\nZeilen é", "good")]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(kind, rows=ROWS, name="data"):
    path = Path(f"{name}.{kind}")
    if kind == "jsonl":
        path.write_text("".join(json.dumps({"text": t, "label": a, "n": 1}) + "\n" for t, a in rows), encoding="utf-8")
    elif kind == "csv":
        quoted = ('"' + text.replace('"', '""') + '"' for text, _ in rows)
        lines = [f"n,{text},{label}" for text, (_, label) in zip(quoted, rows, strict=True)]
        path.write_text("\n".join(["n,text,label", *lines]) + "\n", encoding="utf-8", newline="")
    elif kind == "tsv":
        lines = [f"{label}\t{text}" for text, label in rows if "\n" not in text]
        path.write_text("\n".join(["label\ttext", *lines]), encoding="utf-8")
    else:
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.table({"label": [a for _, a in rows], "text": [t for t, _ in rows]})
        parquet.write_table(table, path, row_group_size=2)
    return path


def read(path, columns=("text", "label"), allowed=0.0, delimiter=None):
    bad = BadRecords(allowed)
    found = list(records.read(Path(path), columns, bad, delimiter))
    return [record.values for record in found], [record.where for record in found], bad


@pytest.mark.parametrize(
    ("kind", "lines"),
    [("jsonl", [1, 2, 3]), ("csv", [2, 3, 4]), ("tsv", [2, 3]), ("parquet", [1, 2, 3])],
)
def test_every_kind_gives_the_columns_asked_for_and_names_the_lines(kind, lines):
    values, where, bad = read(write(kind))
    assert values == ROWS[: len(lines)]
    assert where == [f"data.{kind}:{line}" for line in lines]
    assert bad.count == 0
    assert read(write(kind), ("label",))[0] == [(label,) for _, label in ROWS[: len(lines)]]


def test_a_record_of_several_lines_is_named_by_its_first():
    Path("a.csv").write_text('text,label\n"one\ntwo",x\nthree,y\n')
    assert read("a.csv")[1] == ["a.csv:2", "a.csv:4"]


def test_plain_lines_are_records_and_blank_ones_are_not():
    Path("a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo")
    assert read("a.txt")[0] == [("one",), ("two",)]
    assert read("a.txt")[1] == ["a.txt:1", "a.txt:4"]


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data():
    Path("a.csv").write_bytes(b"\xef\xbb\xbftext,label\r\nhi,good\r\n")
    assert read("a.csv")[0] == [("hi", "good")]
    Path("a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "hi", "label": 1}\r\n')
    assert read("a.jsonl")[0] == [("hi", 1)]


def test_lines_may_begin_anywhere():
    found = list(records.lines(BytesIO("eins\n\nzwé\n".encode()), "stdin", BadRecords(0), first=7))
    assert [(record.where, record.values) for record in found] == [("stdin:7", ("eins",)), ("stdin:9", ("zwé",))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": \n', r"a\.jsonl:2: is not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: holds a list, not an object"),
        ("a.jsonl", b"[" * 100_000 + b"\n", r"a\.jsonl:1: is not JSON"),
        ("a.jsonl", b"1" * 5_000 + b"\n", r"a\.jsonl:1: is not"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', r"a\.jsonl:1: is not UTF-8 text \(byte 0xe9\); save the file as UTF-8"),
        ("a.csv", b"text,label\nx,1\ny\n", r"a\.csv:3: has 1 value, but the header has 2 columns"),
        ("a.csv", b"text,label\nx,1,2\n", r"a\.csv:2: has 3 values"),
        ("a.csv", b"text,label\ncaf\xe9,1\n", r"a\.csv:2: is not UTF-8"),
        ("a.csv", b'text,label\n"a"b,1\n', r"a\.csv:2: cannot be read as CSV"),
        ("a.tsv", b"text\tlabel\nx\n", r"a\.tsv:2: has 1 value,"),
        ("a.txt", b"one\ncaf\xe9\n", r"a\.txt:2: is not UTF-8"),
    ],
)
def test_a_bad_record_is_named_and_can_be_skipped(name, content, message):
    Path(name).write_bytes(content)
    with pytest.raises(DataError, match=message + ".*max_bad_fraction"):
        read(name)
    if name != "a.txt" and b"[1]" not in content:
        assert read(name, allowed=1.0)[2].count == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", r"a\.csv: is empty"),
        ("a.csv", b"sentence,mood\nx,1\n", r"has no column 'text' \(it has: 'sentence', 'mood'\)"),
        ("a.csv", b"texts,label\nx,1\n", r"did you mean 'texts'"),
        ("a.csv", b"text;label\nx;1\n", r'not separated by \',\'; set data.delimiter: ";"'),
        ("a.csv", b"text\tlabel\nx\t1\n", r'set data.delimiter: "\\t"'),
        ("a.csv", b"text,label,text\nx,1,y\n", r"two columns called 'text'"),
        ("a.csv", b'text,label\nx,1\n"y,1\nz,1\n', r"a\.csv:3: a double quote is opened here and never closed"),
        ("a.jsonl", b'{"sentence": "x"}\n', r"has no column 'text' \(it has: 'sentence'\)"),
        ("a.parquet", b"PAR1 no", r"a\.parquet: is damaged, cut short, or no Parquet or Arrow file .*; write it again"),
        ("a.json", b"[{}]", r"a \.json file is not read; write one record a line"),
        ("a.jsonl.gz", b"x", r"a \.gz file is not read; unpack it"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence_however_much_may_be_bad(name, content, message):
    Path(name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(name, allowed=0.9)


def test_another_delimiter():
    Path("a.csv").write_text("text;label\nx, y;1\n")
    assert read("a.csv", delimiter=";")[0] == [("x, y", "1")]


def test_a_parquet_file_without_pyarrow_says_how_to_install_it(monkeypatch):
    path = write("parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pip install pyarrow"):
        read(path)


def test_a_line_that_never_ends_is_refused(monkeypatch):
    monkeypatch.setattr("jaxprop.data.rows.MAX_RECORD", 100)
    Path("a.txt").write_text("x" * 101)
    with pytest.raises(DataError, match=r"a\.txt:1: is longer than"):
        read("a.txt")


# -- files, folders and globs ---------------------------------------------------------------------


def tree():
    for name in ("books/b.txt", "books/a/c.md", "books/a/d.log", "books/.git/e.txt", "books/.f.txt", "other/g.txt"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.mark.parametrize(
    ("pattern", "found", "root"),
    [
        ("books", ["books/a/c.md", "books/b.txt"], "books"),
        ("books/b.txt", ["books/b.txt"], "books"),
        ("books/**/*.log", ["books/a/d.log"], "books"),
        ("*/*.txt", ["books/b.txt", "other/g.txt"], "."),
        ("books/a/[cd].*", ["books/a/c.md", "books/a/d.log"], "books/a"),
    ],
)
def test_paths_folders_and_globs(pattern, found, root):
    tree()
    assert records.find(pattern, "data.train") == ([Path(name) for name in found], Path(root))


def test_links_that_lead_out_of_a_folder_are_left_out(tmp_path):
    tree()
    Path("books/out.txt").symlink_to(tmp_path / "other" / "g.txt")
    Path("books/in.txt").symlink_to(tmp_path / "books" / "b.txt")
    assert [file.name for file in records.find("books", "data.train").files] == ["c.md", "b.txt", "in.txt"]
    assert [file.name for file in records.find("books/*.txt", "data.train").files] == ["b.txt", "in.txt"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("book", r"data\.train: book: no such file or folder under .*did you mean 'books'"),
        ("books/*.csv", r"no file matches books/\*\.csv"),
        ("empty", r"holds no text files \(\.txt, .*a glob names others, such as 'empty/\*\*/\*\.log'"),
        ("~nobody-of-this-name/x.txt", "no such file or folder"),
    ],
)
def test_nothing_found_is_one_sentence(pattern, message):
    tree()
    Path("empty").mkdir()
    with pytest.raises(DataError, match=message):
        records.find(pattern, "data.train")


# -- whole files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 3, 5, 1000])
def test_a_whole_file_comes_in_blocks_that_are_the_file(block, monkeypatch):
    monkeypatch.setattr("jaxprop.data.records.BLOCK", block)
    Path("a.txt").write_bytes("\ufeffeins é\r\nzwei\n\ndrei".encode())
    blocks = list(records.whole(Path("a.txt")))
    assert "".join(blocks) == "eins é\nzwei\n\ndrei"
    assert all(blocks)
    assert records.why_not_text(Path("a.txt")) is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"one\ntwo\ncaf\xe9\n", r"is not UTF-8 in line 3 (byte 0xe9); convert it with iconv -f FROM -t UTF-8"),
        ("text".encode("utf-16"), r"is not UTF-8 in line 1 (byte 0xff); convert it with iconv -f FROM -t UTF-8"),
        (b"a\0b", "holds a zero byte, so that it is no text"),
    ],
)
def test_what_is_no_text_is_said(content, why):
    Path("a.txt").write_bytes(content)
    assert records.why_not_text(Path("a.txt")) == why


# -- fuzz -----------------------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["csv", "tsv", "jsonl", "parquet", "txt"]),
    content=st.one_of(
        st.binary(max_size=80),
        st.text(st.sampled_from('text,label\t"{}:[]\n\r\\\0é1a;'), max_size=80).map(str.encode),
        st.binary(max_size=40).map(lambda tail: b"text,label\nx,1\n" + tail),
        st.binary(max_size=40).map(lambda tail: b'{"text": "x", "label": 1}\n' + tail),
    ),
)
def test_any_bytes_are_read_or_refused_with_a_sentence(kind, content):
    Path(f"fuzz.{kind}").write_bytes(content)
    said = "read"
    try:
        values, where, _ = read(f"fuzz.{kind}", allowed=1.0)
    except JaxpropError as error:
        values, where, said = [], [], str(error)
    assert len(said.splitlines()) == 1
    if said == "read":
        assert len(values) == len(set(where))
        assert all(len(row) == (1 if kind == "txt" else 2) for row in values)


FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["csv", "jsonl", "parquet"]), rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6)
)
def test_what_a_library_writes_is_read_as_it_was(kind, rows):
    import csv

    path = write(kind, rows, name="written")
    if kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    assert read(path)[0] == rows
