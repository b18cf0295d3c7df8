import json
import re

import pytest

from jaxprop.checkpoint.files import plain_json, read_manifests, reporting, stored_config
from jaxprop.errors import CheckpointError


def write_step(folder, name, *, stamp=None, manifest=None):
    path = folder / name
    (path / "run").mkdir(parents=True)
    if stamp is not None:
        (path / "_CHECKPOINT_METADATA").write_text(stamp)
    if manifest is not None:
        (path / "run" / "run.json").write_text(manifest)


COMMITTED = json.dumps({"commit_timestamp_nsecs": 1})
MANIFEST = json.dumps({"config": {"run": {"seed": 7}}})


@pytest.mark.parametrize(
    ("name", "stamp", "manifest"),
    [
        ("99", None, None),
        ("99", COMMITTED, None),
        ("99", None, MANIFEST),
        ("99", json.dumps({"commit_timestamp_nsecs": None}), MANIFEST),
        ("99", "{", MANIFEST),
        ("99", "[]", MANIFEST),
        ("99", COMMITTED, "{"),
        ("99", COMMITTED, "[1]"),
        ("099", COMMITTED, MANIFEST),
        ("99.orbax-checkpoint-tmp-1", COMMITTED, MANIFEST),
        ("notes", COMMITTED, MANIFEST),
    ],
)
def test_only_complete_checkpoints_are_seen(tmp_path, name, stamp, manifest):
    write_step(tmp_path, "5", stamp=COMMITTED, manifest=MANIFEST)
    write_step(tmp_path, name, stamp=stamp, manifest=manifest)
    (tmp_path / "7").write_text("a file")
    assert list(read_manifests(tmp_path)) == [5]


def test_steps_are_in_numerical_order(tmp_path):
    for name in ("100", "20", "3"):
        write_step(tmp_path, name, stamp=COMMITTED, manifest=MANIFEST)
    assert list(read_manifests(tmp_path)) == [3, 20, 100]


def test_stored_config_of_the_newest_and_of_a_step(tmp_path):
    for step in (5, 10):
        write_step(tmp_path, str(step), stamp=COMMITTED, manifest=json.dumps({"config": {"step": step}}))
    assert stored_config(tmp_path) == {"step": 10}
    assert stored_config(tmp_path, 5) == {"step": 5}
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7 in .*; saved steps: 5, 10$"):
        stored_config(tmp_path, 7)


def test_plain_json_copies_and_refuses_other_values():
    inner = [1]
    copy = plain_json({"a": inner, "big": 2**127, "nan": float("nan")})
    inner.append(2)
    assert copy["a"] == [1]
    assert copy["big"] == 2**127
    with pytest.raises(CheckpointError, match="must be plain JSON values: Object of type set"):
        plain_json({"a": {1}})


def test_errors_become_one_sentence(tmp_path):
    says = re.escape(f"step 5 could not be written to {tmp_path} (disk full);")
    with pytest.raises(CheckpointError, match=says), reporting(5, tmp_path):
        raise OSError("disk full\nand a long story")
