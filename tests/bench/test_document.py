"""`bench/document.py`: the file of results."""

import json

import pytest

from jaxprop.bench import document
from jaxprop.bench.document import Document, Environment, Row
from jaxprop.errors import UsageError

HERE = Environment(devices=[{"kind": "cpu"}], host={"cpu": "any"}, versions={"jax": "1"}, flags={})
WHOLE = Document(
    command="device", started="2026-11-27T18:00:00+00:00", environment=HERE,
    rows=[Row(section="matmul", name="a", unit="TFLOP/s", value=1.0, low=0.9, high=1.1, samples=[[1.0, 1.1]])],
)  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    document.write(tmp_path / "new" / "a.json", WHOLE)
    assert document.read(tmp_path / "new" / "a.json") == WHOLE
    assert json.loads((tmp_path / "new" / "a.json").read_text())["schema"] == document.SCHEMA


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"schema": "jaxprop.bench/0"}', "has the schema 'jaxprop.bench/0', expected 'jaxprop.bench/1'"),
        ("[]", "has the schema None"),
        ('{"schema": "jaxprop.bench/1", "rows"', "is cut off or is not JSON"),
        ("[" * 100_000, "is cut off or is not JSON"),
        ('{"schema": "jaxprop.bench/1"}', "command: field required"),
        (json.dumps(document.as_json(WHOLE) | {"rows": [{"section": 1, "name": "a"}]}), "rows.0.section"),
        (json.dumps(document.as_json(WHOLE) | {"more": 1}), "more: extra inputs are not permitted"),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path, text, sentence):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        document.read(tmp_path / "a.json")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_a_folder_and_bytes_are_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for path, sentence in (("none", "No such file"), (".", "Is a directory"), ("bytes", "is not a text file")):
        with pytest.raises(UsageError, match=sentence):
            document.read(tmp_path / path)


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        document.write(tmp_path / "file" / "a.json", WHOLE)
