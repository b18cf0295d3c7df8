"""Commands run in this process, from a temporary working directory with packaged configs of its own."""

from typing import NamedTuple

import pytest

from jaxprop.cli import main
from jaxprop.config import locate

DIGITS = """\
# yaml-language-server: $schema=schema.json
# jaxprop train digits
# 9 s on 2 cores: accuracy 0.99
task: {name: classify}
data: {name: digits}
model: {name: mlp}  # the smallest
optimizer: {name: sgd, lr: 0.1}
run: {epochs: 1}
"""
LM = """\
# yaml-language-server: $schema=schema.json
# jaxprop train lm
task: {name: language}
data: {name: stdlib_text}
model: {name: transformer}
optimizer: {name: adamw, lr: 1e-3}
run: {steps: 10}
"""


class Ran(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of the packaged configs; the working directory is beside it."""
    folder, work = tmp_path / "package", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    (folder / "digits.yaml").write_text(DIGITS)
    (folder / "lm.yaml").write_text(LM)
    (folder / "schema.json").write_text("{}")
    monkeypatch.setattr(locate, "packaged_folder", lambda: folder)
    monkeypatch.chdir(work)
    return folder


@pytest.fixture
def jaxprop(package, capsys, monkeypatch):
    """Runs a command and returns its exit code and what it printed."""
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
