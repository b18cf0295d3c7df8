"""The table of commands: complete, in the order of `--help`, and light to import."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from jaxprop.cli import app

FOLDER = Path(app.__file__).parent
HELPERS = {
    "__init__", "app", "arguments", "bench_output", "completion", "modules", "output", "paths", "plan_output",
    "ranking", "report_sweep", "tables",
}  # fmt: skip
GROUPS = {"bench": app.BENCH}
ALL = app.COMMANDS | {f"{group} {name}": f for group, commands in GROUPS.items() for name, f in commands.items()}
HEAVY = ("jax", "flax", "optax", "numpy", "pydantic", "yaml", "rich", "sklearn")


def test_every_file_is_a_command_of_its_name():
    files = {path.stem for path in FOLDER.glob("*.py")} - HELPERS
    # lr_find.py holds lr-find, and bench_device.py holds device of the group bench.
    assert {name.replace("-", "_").replace(" ", "_"): function.__module__ for name, function in ALL.items()} == {
        file: f"jaxprop.cli.{file}" for file in files
    }


def test_help_lists_the_commands_in_the_order_of_the_table(jaxprop):
    listed = jaxprop("--help").out.partition("Commands:\n")[2]
    assert re.findall(r"^  ([\w-]+)  +\S", listed, re.MULTILINE) == [*app.COMMANDS, *GROUPS]


def test_the_list_of_commands_shows_whole_sentences(jaxprop):
    shown = " ".join(jaxprop("-h").out.split())
    for group, commands in GROUPS.items():
        shown += " ".join(jaxprop(group, "-h").out.split())
        assert re.findall(
            r"^  ([\w-]+)  +\S", jaxprop(group, "-h").out.partition("Commands:\n")[2], re.MULTILINE
        ) == list(commands)
    for command in ALL.values():
        assert command.__doc__.partition("\n")[0] in shown


@pytest.mark.parametrize("command", ALL)
def test_help_of_a_command_is_its_docstring_and_explains_every_option(jaxprop, command):
    ran = jaxprop(*command.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    shown = " ".join(ran.out.split())
    assert " ".join(ALL[command].__doc__.split()) in shown
    found = get_command(app.app)
    for word in command.split():
        found = found.commands[word]
    for parameter in found.params:
        assert parameter.help in shown
        assert parameter.help


def test_importing_the_table_imports_nothing_else_of_the_package_and_nothing_heavy():
    code = (
        "import json, sys; import jaxprop.cli.app;"
        f"print(json.dumps([[m for m in {HEAVY} if m in sys.modules],"
        " sorted({m.split('.')[1] for m in sys.modules if m.startswith('jaxprop.')})]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER.parent.parent)
    assert json.loads(ran.stdout) == [[], ["cli", "errors", "parallel", "run", "sinks", "untrusted", "version"]]


@pytest.mark.parametrize("code", [0, 1, 3, 75])
def test_what_a_command_returns_is_the_exit_code(jaxprop, monkeypatch, code):
    from jaxprop.run import train as runner

    monkeypatch.setattr(runner, "train", lambda *_, **__: runner.Outcome({"step": 1}, code))
    assert jaxprop("train", "digits").code == code
