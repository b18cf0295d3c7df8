"""Digests of the user's own files: of what was loaded, compared by file name, and recorded with the text."""

import hashlib

import pytest

from jaxprop.code.digest import LARGEST, differences, record, with_digests
from jaxprop.config.load import load

YAML = """\
task: {name: classify, metrics: {one: {class: net.py:metric}}}
data: {name: digits}
model: {class: net.py:Net}
optimizer: {class: optax:sgd, lr: 0.1}
run: {steps: 1}
"""
TEXT = "class Net: pass\ndef metric(outputs, batch): return 1, 1\n"


@pytest.fixture
def digested(tmp_path):
    """The configuration with digests, with any text in its file."""

    def made(text=TEXT, folder="."):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "net.py").write_text(text)
        (tmp_path / folder / "net.yaml").write_text(YAML)
        return with_digests(load(tmp_path / folder / "net.yaml").config)

    return made


def test_digests_are_those_of_the_files(digested):
    config = digested()
    assert config.model.class_sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert config.task.metrics["one"].class_sha256 == config.model.class_sha256
    assert len(config.optimizer.class_sha256) == 64
    assert config.model.permitted


def test_a_changed_file_is_told_once_and_another_folder_is_no_change(digested):
    before, after, moved = digested(), digested(TEXT + "# more\n"), digested(folder="elsewhere")
    told = list(differences(before, after))
    assert len(told) == 1
    assert told[0].startswith("net.py (model.class) has changed since the run stored its digest: ")
    assert before.model.class_sha256[:12] in told[0]
    assert after.model.class_sha256[:12] in told[0]
    assert list(differences(before, moved)) == []


def test_without_a_digest_nothing_is_compared(digested, tmp_path):
    after = digested()
    assert list(differences(load(tmp_path / "net.yaml").config, after)) == []


def test_the_record_holds_each_file_once_with_its_text(digested, tmp_path):
    held = record(digested())
    mine = held[str(tmp_path / "net.py")]
    assert mine["text"] == TEXT
    assert mine["used_for"] == {"model": "Net", "task.metrics.one": "metric"}
    assert "text" not in held["optax"]
    assert held["optax"]["used_for"] == {"optimizer": "sgd"}


def test_a_large_file_is_recorded_by_its_digest(digested, tmp_path):
    held = record(digested(TEXT + "#" * LARGEST))
    assert held[str(tmp_path / "net.py")]["text"] is None
