import json
import random

import pytest

from jaxprop.checkpoint import manifest
from jaxprop.checkpoint.failures import DamagedError
from jaxprop.checkpoint.manifest import plain_json, read_manifests, stored_config, unreadable
from jaxprop.errors import CheckpointError

CONTENT = {"format": 2, "config": {"run": {"seed": 7}}, "metrics": {"loss": 0.1}, "digests": {"0": "00ff"}}
COMMITTED = json.dumps({"commit_timestamp_nsecs": 1})
FIRST = json.dumps({"config": {"run": {"seed": 7}}})


def write_step(folder, name, content=CONTENT):
    (folder / name / "state").mkdir(parents=True)
    manifest.write(folder / name / "manifest.json", content)
    return folder / name / "manifest.json"


def write_first(folder, name, *, stamp=COMMITTED, text=FIRST):
    """A checkpoint as jaxprop saved it before there were digests."""
    (folder / name / "run").mkdir(parents=True)
    if stamp is not None:
        (folder / name / "_CHECKPOINT_METADATA").write_text(stamp)
    if text is not None:
        (folder / name / "run" / "run.json").write_text(text)


@pytest.mark.parametrize(
    ("name", "stamp", "text"),
    [
        ("99", None, None),
        ("99", COMMITTED, None),
        ("99", None, FIRST),
        ("99", json.dumps({"commit_timestamp_nsecs": None}), FIRST),
        ("99", "{", FIRST),
        ("99", "[]", FIRST),
        ("99", COMMITTED, "{"),
        ("99", COMMITTED, "[1]"),
        ("99", COMMITTED, "[" * 100_000),
        ("099", COMMITTED, FIRST),
        ("1e3", COMMITTED, FIRST),
        ("٣", COMMITTED, FIRST),
        ("99.orbax-checkpoint-tmp-1", COMMITTED, FIRST),
        ("notes", COMMITTED, FIRST),
    ],
)
def test_only_complete_checkpoints_are_seen(tmp_path, name, stamp, text):
    write_first(tmp_path, "5")
    write_step(tmp_path, "6")
    write_first(tmp_path, name, stamp=stamp, text=text)
    (tmp_path / "7").write_text("a file")
    (tmp_path / "8").symlink_to(tmp_path / "6")
    assert list(read_manifests(tmp_path)) == [5, 6]


def test_steps_are_in_numerical_order(tmp_path):
    for name in ("100", "20", "3"):
        write_step(tmp_path, name)
    assert list(read_manifests(tmp_path)) == [3, 20, 100]


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    write_step(tmp_path, "5")
    assert manifest.read(tmp_path / "5") == CONTENT
    assert sorted(path.name for path in (tmp_path / "5").iterdir()) == ["manifest.json", "state"]


def test_no_flipped_bit_of_a_manifest_is_believed(tmp_path):
    path = write_step(tmp_path, "5")
    whole, draw = path.read_bytes(), random.Random(3)
    for bit in draw.sample(range(8 * len(whole)), 300):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        # Where it is read all the same, it was another kind of space that was flipped into.
        assert list(read_manifests(tmp_path).values()) in ([], [CONTENT])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "its manifest.json is missing"),
        ("", "its manifest.json cannot be read"),
        ("[1]", "its manifest.json cannot be read"),
        ('{"format": 2}', "its manifest.json differs from its own digest"),
    ],
)
def test_why_a_manifest_is_not_used(tmp_path, text, why):
    path = write_step(tmp_path, "5")
    path.unlink() if text is None else path.write_text(text)
    assert unreadable(tmp_path) == {5: why}
    with pytest.raises(DamagedError, match=rf"^the checkpoint {tmp_path}/5 is damaged: {why}$"):
        manifest.read(tmp_path / "5")


def test_a_link_is_not_followed(tmp_path):
    path = write_step(tmp_path, "5")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert unreadable(tmp_path) == {5: "its manifest.json cannot be read"}


def test_a_later_format_is_not_taken_for_damage(tmp_path):
    write_step(tmp_path, "5", {**CONTENT, "format": 3})
    with pytest.raises(CheckpointError, match=r"is of format 3, and this version of jaxprop reads 2; use the version"):
        read_manifests(tmp_path)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = write_step(tmp_path, "5")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        manifest.write(path, {**CONTENT, "metrics": None})
    assert manifest.read(tmp_path / "5") == CONTENT
    assert sorted(file.name for file in path.parent.iterdir()) == ["manifest.json", "state"]


def test_stored_config_of_the_newest_and_of_a_step(tmp_path):
    for step in (5, 10):
        write_step(tmp_path, str(step), {**CONTENT, "config": {"step": step}})
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
