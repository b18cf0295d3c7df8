"""What the README and the pages in docs/ print runs: Python and YAML blocks, command lines, and CI's two commands."""

import functools
import inspect
import itertools
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from jaxprop.cli import app, main
from jaxprop.cli.arguments import split
from jaxprop.config.load import load
from jaxprop.config.locate import packaged
from jaxprop.run import train as runner
from tests.run.sweeps import make_sweep

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "results")]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
README = PAGES["README.md"]
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
HOOKS = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
LINTERS = (".venv/bin/ruff format --check .", ".venv/bin/ruff check .", ".venv/bin/mypy")
# Commands that take long, or need a run; their arguments are parsed, and their configurations loaded.
LONG = (
    "eval",
    "predict",
    "generate",
    "export",
    "retrain",
    "sweep",
    "report",
    "compare",
    "replay",
    "lesson",
    "info",
    "plan",
    "gradcheck",
    "coord-check",
    "explain",
    "lr-find",
    "doctor",
)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


def cases(language):
    """One case a block, called `docs/running.md-2`."""
    return [
        pytest.param(page, block, id=f"{page}-{i}")
        for page in PAGES
        for i, block in enumerate(blocks(page, language), 1)
        if (page, block) not in INSTALLING
    ]


FIRST, SECOND, *_ = blocks("README.md", "bash")
INSTALLING = [("README.md", FIRST), ("README.md", SECOND)]


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


def test_the_readme_is_a_page():
    assert len(README.splitlines()) <= 250


@pytest.mark.parametrize(("page", "block"), cases("python"))
def test_python_blocks_run(page, block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXPROP_ALLOCATOR", "off")  # a program may begin again with one, and here that would be pytest
    exec(compile(block, page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("page", "block"), cases("sh"))
def test_lines_for_a_shell_run(page, block):
    assert subprocess.run(["bash", "-eu", "-c", block], env={}).returncode == 0


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_is_output(page):
    opened = re.findall(r"^```(.*)$", PAGES[page], re.MULTILINE)[::2]
    assert set(opened) <= {"python", "yaml", "bash", "sh", "text"}


@pytest.mark.parametrize(("page", "block"), cases("yaml"))
def test_yaml_blocks_are_valid_configs(page, block, tmp_path, capsys):
    path = tmp_path / "readme.yaml"
    path.write_text(block)
    code = main(["validate", str(path)])
    said = capsys.readouterr().err.splitlines()
    problems = said[1:] or said[:code]  # several stand below a line of their own
    if ".py:" in block:  # code of the reader's own, which is not here
        assert problems
        assert all("there is no file" in problem for problem in problems)
    else:
        assert (code, problems) == (0, [])


def parsed(callback):
    """A command with the same arguments that does nothing but load its config, if it takes one."""

    def command(**arguments):
        if "overrides" in arguments:
            first = next((value for name, value in arguments.items() if name in ("config", "target")), None)
            if first is not None:
                load(*split(first, arguments["overrides"]))
        return 0

    return functools.wraps(callback)(command)


@pytest.mark.parametrize(("page", "block"), cases("bash"))
def test_command_lines_are_understood(page, block, tmp_path, monkeypatch, capsys):
    """Runs what is quick, line by line; of what takes long, the command line and the config are checked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("base: digits_mlp\n")
    (tmp_path / "wine.csv").write_text("alcohol,quality\n" + "9.4,5\n9.8,6\n" * 30)
    swept = make_sweep(tmp_path / "runs" / "digits_mlp-sweep", [({"optimizer.lr": 0.1}, 0, 0.9)]) / "lr=0.1,seed=0"
    swept.mkdir()
    (swept / "config.yaml").write_text(packaged()["digits_mlp"].read_text(encoding="utf-8"))
    monkeypatch.setattr(runner, "train", lambda *_, **__: runner.Outcome({"status": "completed"}, 0))
    groups = [group.typer_instance.registered_commands for group in app.app.registered_groups]
    for registered in [*app.app.registered_commands, *itertools.chain(*groups)]:
        if registered.name in LONG or registered.callback in app.BENCH.values():
            monkeypatch.setattr(registered, "callback", parsed(registered.callback))
    for line in block.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "jaxprop"
        if arguments[0] == "init":
            (tmp_path / arguments[2]).unlink()
        assert main(arguments) == 0, capsys.readouterr().err


def test_parsed_commands_refuse_what_the_commands_refuse(monkeypatch, capsys):
    for registered in app.app.registered_commands:
        if registered.name in LONG:
            monkeypatch.setattr(registered, "callback", parsed(registered.callback))
            assert inspect.signature(registered.callback) == inspect.signature(app.COMMANDS[registered.name])
    assert main(["explain", "digits_mlp", "--layer-limit", "0"]) == 2
    assert main(["lr-find", "digits_mlp", "optimizer.lrr=1"]) == 2


# -- tables ---------------------------------------------------------------------------------------


def table(page, header):
    """First cells of the rows under a header."""
    rows = PAGES[page].split(f"| {header} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [row.split("|")[1].strip() for row in rows]


def test_the_table_of_commands_is_complete():
    assert [re.search(r"jaxprop ([\w-]+)", cell).group(1) for cell in table("docs/running.md", "command")] == [
        *app.COMMANDS,
        "bench",
    ]


def test_the_table_of_exit_codes_is_complete():
    from jaxprop import errors

    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert [int(cell) for cell in table("docs/running.md", "exit code")] == sorted(codes)


def test_the_table_of_configs_is_complete():
    assert {cell.strip("`") for cell in table("README.md", "config")} == {
        path.stem for path in (ROOT / "configs").glob("*.yaml")
    }


def test_pages_are_reached_from_the_readme():
    linked = {
        ((ROOT / name).parent / link).resolve()
        for name, text in PAGES.items()
        for link in re.findall(r"\]\(([\w./-]+\.md)", text)
    }
    assert {page for page in PAGES if ROOT / page not in linked} == {"README.md"}


@pytest.mark.parametrize("name", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_file_names_lead_somewhere(name):
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    linked = [(path.parent, link) for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text)]
    named = [(ROOT, file) for file in re.findall(r"`((?:jaxprop|tests|configs|scripts|docs)/[\w/.-]+)`", text)]
    found = [(folder, file) for folder, file in linked + named if "my" not in file]
    assert [file for folder, file in found if not (folder / file).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_links_to_headings_lead_to_a_heading(name):
    for file, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", PAGES[name]):
        target = ((ROOT / name).parent / file) if file else ROOT / name
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in anchors


def test_nothing_is_installed_by_the_name_of_another_project():
    """The public index has an unrelated project called jaxprop."""
    for text in PAGES.values():
        assert re.findall(r"pip install[^`\n]*[ '\"]jaxprop\b", text) == []
