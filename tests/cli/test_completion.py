"""What the shell completes: names and files in Python, and the whole way through the shell's own script."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprop.cli import completion
from tests.cli.test_cli import environment


@pytest.fixture
def project(package):
    """A working directory with a config, its data, and runs."""
    for name in ("wine", "wine-2", "digits"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "config.yaml").touch()
    Path("runs/other").mkdir()
    Path("runs/wine-sweep").mkdir()
    Path("runs/wine-sweep/sweep.json").touch()
    Path("runs/readme.txt").touch()
    Path("wide.yaml").touch()
    Path("wine.csv").touch()
    Path("configs").mkdir()
    Path("configs/mine.yml").touch()
    return package


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["digits", "lm", "wide.yaml", "digits", "wine", "wine-2"]),
        ("wi", ["wide.yaml", "wine", "wine-2"]),
        ("lm", ["lm"]),
        ("configs/", ["configs/mine.yml"]),
        ("runs/wine-", ["runs/wine-2"]),
        ("nowhere/", []),
        ("wine.csv/", []),
    ],
)
def test_what_may_stand_for_a_config(project, typed, offered):
    assert completion.configs(typed) == offered


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("w", ["wine", "wine-2"]), ("runs/d", ["runs/digits"]), ("./runs/wine-", ["./runs/wine-2"]), ("x", [])],
)
def test_what_may_stand_for_a_run(project, typed, offered):
    assert completion.runs(typed) == offered


def test_a_project_without_runs_offers_none(package):
    assert completion.runs("") == []
    assert completion.packaged_names("d") == ["digits"]


def completed(words, **variables):
    """What the command answers the script of bash with."""
    asked = {"_JAXPROP_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    code = (
        "import sys; from jaxprop.cli import main; code = main([]);"
        "print([m for m in ('jax', 'numpy', 'yaml', 'rich') if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment() | asked | variables
    )


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["jaxprop", "tr"], ["train"]),
        (["jaxprop", "bench", "comp"], ["compare"]),
        (["jaxprop", "train", "wi"], ["wide.yaml", "wine", "wine-2"]),
        (["jaxprop", "report", "wine", "d"], ["digits"]),
        (["jaxprop", "train", "digits_m"], ["digits_mlp"]),
        (["jaxprop", "train", "--fr"], ["--from", "--fresh"]),
        (["jaxprop", "train", "--from", "w"], ["wine-sweep"]),
    ],
)
def test_the_command_answers_the_shell_without_loading_anything_heavy(project, words, offered):
    ran = completed(words)
    assert ran.returncode == 0
    assert ran.stdout.split() == offered
    assert ran.stderr == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_shown(shell):
    known = environment() | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "jaxprop", "--show-completion", shell], capture_output=True, text=True, env=known
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "_JAXPROP_COMPLETE" in ran.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on PATH")
def test_bash_completes_by_the_script_it_is_shown(project, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "jaxprop"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m jaxprop "$@"\n')
    program.chmod(0o755)
    known = environment() | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    known["PATH"] = f"{folder}{os.pathsep}{known['PATH']}"
    script = (
        'eval "$(jaxprop --show-completion bash)"; COMP_WORDS=(jaxprop eval wine-); COMP_CWORD=2;'
        '_jaxprop_completion jaxprop; echo "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=known)
    assert (ran.stdout, ran.stderr) == ("wine-2\n", "")
