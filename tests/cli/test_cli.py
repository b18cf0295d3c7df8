"""`jaxprop.cli.main`: exit codes, and errors in one sentence."""

import inspect
import json
import os
import subprocess
import sys

import pytest

from jaxprop import cli
from jaxprop.cli import app
from jaxprop.errors import CheckpointError, ConfigError, UsageError
from jaxprop.tools import doctor as tool
from tests.bench.documents import make_document, make_row, save
from tests.report.runs import make_run

LIGHT = {
    "--help": ["--help"],
    "train --help": ["train", "--help"],
    "validate": ["validate", "CONFIG"],
    "validate bad": ["validate", "CONFIG", "run.epochs=x"],
    "schema": ["schema"],
    "configs": ["configs"],
    "usage": ["nonsense"],
}


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT)
def test_light_commands_import_nothing_heavy(package, arguments):
    arguments = [str(package / "digits.yaml") if argument == "CONFIG" else argument for argument in arguments]
    code = (
        "import sys; from jaxprop.cli import main; main(sys.argv[1:]);"
        "print([m for m in ('jax', 'numpy', 'optax', 'flax', 'rich', 'sklearn') if m in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment())
    assert ran.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("say which"), 2, "error: say which\n"),
        (ConfigError(["a.yaml:1: only"]), 2, "error: a.yaml:1: only\n"),
        (ConfigError(["one", "two"]), 2, "error: 2 problems in the configuration\n  one\n  two\n"),
        (CheckpointError("it is torn"), 1, "error: it is torn\n"),
        (RuntimeError("two\nlines"), 1, "error: RuntimeError: two lines (run again with -v for the traceback)\n"),
        (ZeroDivisionError(), 1, "error: ZeroDivisionError: no message (run again with -v for the traceback)\n"),
        (OSError(28, "No space left"), 1, "error: the output cannot be written (No space left)\n"),
        (OSError(22, "Invalid"), 1, "error: OSError: [Errno 22] Invalid (run again with -v"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(75), 75, ""),
    ],
)
@pytest.mark.parametrize("flag", [[], ["-v"]])
def test_errors_are_one_sentence_and_an_exit_code(jaxprop, monkeypatch, error, code, text, flag):
    def raises():
        raise error

    monkeypatch.setattr(tool, "diagnose", raises)
    ran = jaxprop("doctor", *flag)
    assert ran.code == code
    assert ran.out == ""
    assert ("Traceback" in ran.err) == (bool(flag) and bool(text))
    assert ran.err.endswith(text) if text.endswith("\n") else text in ran.err
    if not flag and text:
        assert ran.err.startswith(text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'CONFIG'"),
        (["train", "digits", "--nonsense"], "No such option"),
        (["train", "--run"], "--run"),
        (["validate", "digits", "lm"], "error: expected key=value after the config 'digits', got 'lm'"),
        (["validate", "run.seed=1"], "error: no config is named, only overrides"),
        (["validate", "digits", "lr"], "error: expected key=value after the config 'digits', got 'lr'"),
        ([], ""),
    ],
)
def test_usage_errors_exit_2(jaxprop, arguments, text):
    ran = jaxprop(*arguments)
    assert ran.code == 2
    assert text in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "arguments", [["-v", "validate", "nothing"], ["validate", "-v", "nothing"], ["validate", "nothing", "--verbose"]]
)
def test_verbose_may_stand_anywhere(jaxprop, arguments):
    ran = jaxprop(*arguments)
    assert "Traceback" in ran.err
    assert ran.code == 2


def test_module_and_version():
    ran = subprocess.run(
        [sys.executable, "-m", "jaxprop", "--version"], capture_output=True, text=True, env=environment()
    )
    assert ran.stdout.startswith("jaxprop ")
    assert ran.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("schema", 0),
        ("--help", 0),
        ("--version", 0),
        ("configs", 0),
        ("runs", 0),
        ("report runs/a --no-html", 0),
        ("bench check a.json", 1),
        ("bench compare a.json b.json", 0),
        ("bench compare a.json b.json --fail-above 5%", 1),  # whose exit code is that of the comparison all the same
        ("bench history .", 0),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_error(tmp_path, arguments, code, unbuffered):
    make_run(tmp_path / "runs" / "a")
    for name, seconds in (("a.json", 0.01), ("b.json", 0.02)):
        save(make_document(make_row("step", seconds)), tmp_path / name)
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        [sys.executable, "-m", "jaxprop", *arguments.split()], stdout=writing, stderr=subprocess.PIPE, text=True,
        env=environment() | {"PYTHONUNBUFFERED": unbuffered}, cwd=tmp_path,
    )  # fmt: skip
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (code, "")


def test_every_command_has_json():
    for name, command in (app.COMMANDS | app.BENCH).items():
        assert "json" in inspect.signature(command).parameters, name


@pytest.mark.parametrize("arguments", [["validate", "digits"], ["configs"], ["schema"], ["runs"], ["doctor"]])
def test_json_begins_with_the_command_and_the_run(jaxprop, monkeypatch, arguments):
    monkeypatch.setattr(tool, "diagnose", lambda: tool.Diagnosis({}, [], {}, {}, []))
    ran = jaxprop(*arguments, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    assert list(found)[:2] == ["command", "run"]
    assert (found["command"], found["run"]) == (arguments[0], None)


TRAIN = ["train", "digits_mlp", "run.epochs=3", "--run", "a"]


@pytest.mark.parametrize("redirects", [">&-", "2>&-", ">&- 2>&-", "0>&- >&- 2>&-", ">/dev/full", "2>/dev/full"])
@pytest.mark.timeout(240)
def test_training_goes_on_in_silence_without_its_streams(tmp_path, redirects):
    command = ["sh", "-c", f'"$0" -m jaxprop "$@" {redirects}', sys.executable, *TRAIN]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "Error" not in ran.stderr + ran.stdout
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["status"] == "completed"
    for path in (tmp_path / "a").glob("*.jsonl"):
        assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("arguments", "redirect", "code"),
    [
        (["validate", "nothing"], "2>/dev/full", 2),
        (["validate", "nothing"], "2>&-", 2),
        (["--version"], ">/dev/full", 1),
        (["schema"], ">/dev/full", 1),
        (["configs"], ">/dev/full", 1),
        (["--version"], ">&-", 0),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_exit_codes_without_streams(arguments, redirect, code, unbuffered):
    command = ["sh", "-c", f'"$0" -m jaxprop "$@" {redirect}', sys.executable, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment() | {"PYTHONUNBUFFERED": unbuffered})
    assert (ran.returncode, "Traceback" in ran.stderr, "ignored" in ran.stderr) == (code, False, False)
    if redirect == ">/dev/full":
        assert ran.stderr == "error: the output cannot be written (No space left on device)\n"


def test_what_an_error_quotes_reaches_the_terminal_without_control_characters(jaxprop, monkeypatch):
    def raises():
        raise UsageError("the layer \x1b]0;owned\x07 of a file\nand a line")

    monkeypatch.setattr(tool, "diagnose", raises)
    assert jaxprop("doctor").err == "error: the layer ?]0;owned? of a file\n  and a line\n"


def environment():
    """This environment with the package on the path, wherever the test runs."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(cli.__file__)))
    return os.environ | {"PYTHONPATH": root}
