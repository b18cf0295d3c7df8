"""The allocator that commands which compute start anew with: found, never required, switched off by one variable."""

import os
import subprocess
import sys

import pytest

import jaxprop
from jaxprop import cli
from jaxprop.run import allocator


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "libjemalloc.so.2"
    path.write_bytes(b"")
    return str(path)


def test_a_named_library_is_taken_where_it_exists(library):
    assert allocator.find_allocator({"JAXPROP_ALLOCATOR": library}) == library
    assert allocator.find_allocator({"JAXPROP_ALLOCATOR": library + ".gone"}) is None


@pytest.mark.parametrize("environment", [{"JAXPROP_ALLOCATOR": "off"}, {"LD_PRELOAD": "/x.so"}])
def test_nothing_is_loaded_where_it_is_off_or_something_is_preloaded_already(environment):
    assert allocator.find_allocator(environment) is None


def test_what_is_installed_is_found_by_its_file_name(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtcmalloc_minimal.so.4").write_bytes(b"")
    monkeypatch.setattr(allocator.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(allocator, "LIBRARIES", ("libtcmalloc_minimal.so.4",))
    assert allocator.find_allocator({}) == str(tmp_path / "lib" / "libtcmalloc_minimal.so.4")


@pytest.fixture
def restarts(monkeypatch):
    seen = []
    monkeypatch.setattr(allocator.os, "execve", lambda *arguments: seen.append(arguments))
    return seen


def test_a_restart_keeps_the_command_and_what_is_set_already(restarts, library):
    environment = {"JAXPROP_ALLOCATOR": library, "MALLOC_CONF": "mine", "HOME": "/h"}
    allocator.restart_with_allocator(["-m", "jaxprop", "train", "c.yaml"], environment)
    ((executable, command, changed),) = restarts
    assert (executable, command) == (sys.executable, [sys.executable, "-m", "jaxprop", "train", "c.yaml"])
    assert (changed["LD_PRELOAD"], changed["MALLOC_CONF"], changed["HOME"]) == (library, "mine", "/h")


def test_a_program_of_ones_own_begins_again(restarts, library, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "mine.py", "--lr", "1"])
    monkeypatch.setenv("JAXPROP_ALLOCATOR", library)
    jaxprop.restart_with_allocator()
    ((_, command, changed),) = restarts
    assert command == [sys.executable, "-X", "dev", "mine.py", "--lr", "1"]
    assert changed["LD_PRELOAD"] == library


def test_what_is_interactive_does_not_begin_again(restarts, library, monkeypatch):
    environment = {"JAXPROP_ALLOCATOR": library}
    for change in (
        lambda m: m.setattr(sys, "ps1", ">>> ", raising=False),
        lambda m: m.setitem(sys.modules, "ipykernel", sys),
        lambda m: m.setattr(sys, "argv", [""]),  # read from the standard input
    ):
        with monkeypatch.context() as changed:
            change(changed)
            allocator.restart_with_allocator(environment=environment)
    assert not restarts


@pytest.mark.parametrize(("line", "restarted"), [(["train"], True), (["validate"], False), (["--help"], False)])
def test_only_commands_that_compute_restart_and_only_as_a_process(monkeypatch, restarts, library, line, restarted):
    monkeypatch.setenv("JAXPROP_ALLOCATOR", library)
    monkeypatch.setattr(sys, "argv", ["jaxprop", *line])
    cli.main()
    assert bool(restarts) == restarted
    restarts.clear()
    cli.main(line)
    assert not restarts


def test_the_process_that_is_restarted_knows_its_allocator():
    found = allocator.find_allocator({})
    if found is None:
        pytest.skip("no allocator that keeps its pages is installed")
    code = "from jaxprop.run.allocator import allocator_in_use; print(allocator_in_use())"
    environment = {**os.environ, "LD_PRELOAD": found, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert ran.stdout.strip() in allocator.NAMES


def test_a_program_runs_to_its_end_once_with_its_allocator(tmp_path):
    found = allocator.find_allocator({})
    if found is None:
        pytest.skip("no allocator that keeps its pages is installed")
    script = tmp_path / "mine.py"
    script.write_text(
        "import sys\nprint('begun', flush=True)\nimport jaxprop\njaxprop.restart_with_allocator()\n"
        "from jaxprop.run.allocator import allocator_in_use\nprint(allocator_in_use(), sys.argv[1:])\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", "JAXPROP_ALLOCATOR")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, str(script), "a b"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    begun, again, last = ran.stdout.splitlines()
    assert (begun, again) == ("begun", "begun")
    assert last.split()[0] in allocator.NAMES
    assert last.endswith("['a b']")
