"""What the documentation prints runs: Python blocks, YAML blocks, command lines, and CI's two commands."""

import functools
import re
import shlex
from pathlib import Path

import pytest

from jaxprop.cli import app, main
from jaxprop.run import train as runner

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
LINTERS = (".venv/bin/ruff format --check .", ".venv/bin/ruff check .", ".venv/bin/mypy")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


FIRST, SECOND, *SHELL = blocks("bash")


# -- the two commands -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", [FIRST, SECOND], ids=["first", "second"])
def test_the_two_commands_are_one_line_each_and_ci_runs_them_to_the_letter(command):
    line = command.removesuffix("\n")
    assert "\n" not in line
    assert re.search(rf"^run (['\"]){re.escape(line)}\1", CI, re.MULTILINE)


def test_the_first_command_makes_a_venv_installs_and_trains():
    assert FIRST.strip().split(" && ") == [
        "python3 -m venv .venv",
        ".venv/bin/pip install -q .",
        ".venv/bin/jaxprop train digits_cnn",
    ]


def test_the_second_command_installs_dev_into_the_same_venv_and_tests():
    assert ".venv/bin/pip install" in SECOND
    assert "[dev]" in SECOND
    assert " && .venv/bin/python -m pytest" in SECOND


@pytest.mark.parametrize("command", LINTERS)
def test_ci_and_the_hooks_run_the_same_linters(command):
    assert f"run '{command}'\n" in CI
    assert f"entry: {command}\n" in HOOKS


def test_ci_is_an_executable_that_stops_at_the_first_failure():
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert CI.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in CI


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("i", range(len(blocks("python"))))
def test_python_blocks_run(i, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[i], f"README.md, Python block {i + 1}", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("i", range(len(blocks("yaml"))))
def test_yaml_blocks_are_valid_configs(i, tmp_path, capsys):
    path = tmp_path / "readme.yaml"
    path.write_text(blocks("yaml")[i])
    assert main(["validate", str(path)]) == 0


@pytest.mark.parametrize("i", range(len(SHELL)))
def test_command_lines_are_understood(i, tmp_path, monkeypatch, capsys):
    """Runs what is quick, line by line; of what needs a run, the command line and the config are checked."""
    monkeypatch.chdir(tmp_path)

    monkeypatch.setattr(runner, "train", lambda *_, **__: runner.Outcome({"status": "completed"}, 0))
    registered = next(command for command in app.app.registered_commands if command.name == "report")
    monkeypatch.setattr(registered, "callback", functools.wraps(registered.callback)(lambda **_: 0))
    for line in SHELL[i].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "jaxprop"
        assert main(arguments) == 0, capsys.readouterr().err


# -- tables ---------------------------------------------------------------------------------------


def table(header):
    """First cells of the rows under a header."""
    rows = README.split(f"| {header} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [row.split("|")[1].strip() for row in rows]


def test_the_table_of_commands_is_complete():
    assert [re.search(r"jaxprop ([\w-]+)", cell).group(1) for cell in table("command")] == list(app.COMMANDS)


def test_the_table_of_exit_codes_is_complete():
    from jaxprop import errors

    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert [int(cell) for cell in table("exit code")] == sorted(codes)


def test_the_table_of_configs_is_complete():
    assert {cell.strip("`") for cell in table("config")} == {path.stem for path in (ROOT / "configs").glob("*.yaml")}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_and_file_names_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"\]\(([\w./-]+)\)", text) + re.findall(r"`((?:jaxprop|tests|configs|scripts)/[\w/.]+)`", text)
    assert len(named) > 2
    assert [path for path in named if "my" not in path and not (ROOT / path).exists()] == []
