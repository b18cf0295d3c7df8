"""The allocator that commands which compute start anew with: found, never required, switched off by one variable."""

import os
import subprocess
import sys

import pytest

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
    allocator.restart_with_allocator(["train", "c.yaml"], environment)
    ((executable, command, changed),) = restarts
    assert (executable, command) == (sys.executable, [sys.executable, "-m", "jaxprop", "train", "c.yaml"])
    assert (changed["LD_PRELOAD"], changed["MALLOC_CONF"], changed["HOME"]) == (library, "mine", "/h")


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
