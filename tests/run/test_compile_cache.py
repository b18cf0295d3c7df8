"""The folder of compiled programs: safe, bounded, mended, and never what ends a run."""

import json
import os
import subprocess
import sys
import time
import warnings
import zlib

import pytest

from jaxprop import cli
from jaxprop.run import compile_cache as module
from jaxprop.run.compile_cache import bound, find_cache, machine, make_private, open_cache, refusal, usage


def told_by(environment):
    lines = []
    open_cache(environment, lines.append)
    return lines


@pytest.fixture(autouse=True)
def usual_warnings():
    """What `open_cache` does to warnings ends with the test."""
    show = warnings.showwarning
    with warnings.catch_warnings():
        yield
    warnings.showwarning = show


# -- where ----------------------------------------------------------------------------------------


def test_the_folder_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    name = f"compiled-{machine({})}"
    assert find_cache({"XDG_CACHE_HOME": str(tmp_path)}).folder == tmp_path / "jaxprop" / name
    assert find_cache({"XDG_CACHE_HOME": "not/absolute"}).folder == tmp_path / "home" / ".cache" / "jaxprop" / name
    assert find_cache({"JAXPROP_COMPILE_CACHE": "~/mine"}).folder == tmp_path / "home" / "mine" / name


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"JAXPROP_COMPILE_CACHE": "off"}, "JAXPROP_COMPILE_CACHE=off"),
        ({"JAX_ENABLE_COMPILATION_CACHE": "false"}, "JAX_ENABLE_COMPILATION_CACHE=false"),
        ({"JAX_COMPILATION_CACHE_DIR": "/mine"}, "as JAX_COMPILATION_CACHE_DIR says"),
    ],
)
def test_what_the_user_has_set_stays(environment, why, tmp_path):
    environment |= {"XDG_CACHE_HOME": str(tmp_path)}
    before = dict(environment)
    assert find_cache(environment).why == why
    assert told_by(environment) == []
    assert environment == before
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(module.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    environment = {}
    assert (find_cache(environment).why, told_by(environment), environment) == ("there is no home folder", [], {})


def test_each_machine_and_number_of_cores_has_a_folder_of_its_own(monkeypatch, tmp_path):
    here = machine({})
    assert machine({}) == here
    assert machine({"NPROC": "1"}) != here
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda process: set(range(99)), raising=False)
    assert machine({}) != here
    monkeypatch.undo()
    monkeypatch.setattr(module, "CPU_LINES", ())
    assert machine({}) != here or not os.path.exists("/proc/cpuinfo")


# -- safe -----------------------------------------------------------------------------------------


def test_the_folder_is_made_for_the_user_alone_and_jax_told_of_it(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "new"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "2"}
    assert told_by(environment) == []
    folder = find_cache({"XDG_CACHE_HOME": str(tmp_path / "new")}).folder
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent, folder.parent.parent)] == [0o700] * 3
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "2"
    assert environment["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] == "-1"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_to_is_refused_in_one_line(tmp_path, mode):
    (tmp_path / "jaxprop").mkdir()
    (tmp_path / "jaxprop").chmod(mode)
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    (line,) = told_by(environment)
    assert line.startswith(f"compiled programs are not kept: others may write to {tmp_path / 'jaxprop'}; ")
    assert "JAXPROP_COMPILE_CACHE=off" in line
    assert environment == {"XDG_CACHE_HOME": str(tmp_path)}


def test_a_folder_or_a_link_of_another_user_is_refused(tmp_path, monkeypatch):
    assert make_private(tmp_path / "a") == ""
    monkeypatch.setattr(module.os, "geteuid", lambda: os.getuid() + 1, raising=False)
    assert make_private(tmp_path / "a") == f"{tmp_path / 'a'} belongs to another user"


def test_a_link_of_the_user_is_followed_and_a_file_is_refused(tmp_path):
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert make_private(tmp_path / "link") == ""
    (tmp_path / "file").write_text("")
    assert make_private(tmp_path / "file") == f"{tmp_path / 'file'} is not a folder"
    assert "cannot be made" in make_private(tmp_path / "file" / "below")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    assert make_private(tmp_path / "a") == f"{tmp_path / 'a'} is not writable"
    cache = find_cache({"XDG_CACHE_HOME": str(tmp_path)})
    assert refusal(cache) == ""  # there is none yet
    cache.folder.mkdir(parents=True)
    assert refusal(cache) == f"{cache.folder.parent} is not writable"


# -- bounded --------------------------------------------------------------------------------------


def test_what_was_not_used_for_longest_is_removed_first(tmp_path):
    folder = find_cache({"XDG_CACHE_HOME": str(tmp_path)}).folder
    (folder / "xla").mkdir(parents=True)
    now = time.time()
    for i, name in enumerate(("a-cache", "b-cache", "xla/c", "d-cache")):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (now - 100 * i, now - 100 * i))
    os.utime(folder / "d-cache", (now, now - 9000))  # read just now
    (folder / "empty-cache").write_bytes(b"")
    (tmp_path / "jaxprop" / "mine.txt").write_bytes(bytes(1000))
    (folder / "link-cache").symlink_to(tmp_path / "jaxprop" / "mine.txt")
    bound(folder.parent, 400)
    assert usage(find_cache({"XDG_CACHE_HOME": str(tmp_path)})) == (4, 400)
    bound(folder.parent, 399)
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {
        "a-cache",
        "b-cache",
        "d-cache",
        "link-cache",
    }
    assert (tmp_path / "jaxprop" / "mine.txt").exists()


def test_a_bound_that_cannot_be_kept_is_no_error(tmp_path, monkeypatch):
    folder = find_cache({"XDG_CACHE_HOME": str(tmp_path)}).folder
    folder.mkdir(parents=True)
    (folder / "a-cache").write_bytes(bytes(100))
    monkeypatch.setattr(module.os, "unlink", lambda path: (_ for _ in ()).throw(PermissionError))
    bound(folder.parent, 10)
    assert (folder / "a-cache").exists()


# -- mended ---------------------------------------------------------------------------------------


def warned(doing, name, why):
    warnings.warn(f"Error {doing} persistent compilation cache entry for '{name}': {why}", stacklevel=2)


def test_broken_entries_are_removed_and_told_of_once_even_where_warnings_are_errors(tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    warnings.simplefilter("error")
    lines = []
    open_cache(environment, lines.append)
    folder = find_cache({"XDG_CACHE_HOME": str(tmp_path)}).folder
    whole, torn, other = (folder / name for name in ("jit_f-01-cache", "jit_f-02-cache", "jit_g-03-cache"))
    for path in (whole, torn, other):
        path.write_bytes(zlib.compress(b"program" * 99))
    torn.write_bytes(torn.read_bytes()[:-5])
    warned("reading", "jit_f", "error: Error -5")
    assert [path.exists() for path in (whole, torn, other)] == [True, False, True]
    assert len(lines) == 1
    assert "could not be read" in lines[0]
    torn.write_bytes(b"")
    warned("writing", "jit_f", "OSError: [Errno 28] No space left on device")
    assert [path.exists() for path in (whole, torn, other)] == [True, False, True]
    assert "could not be kept" in lines[1]
    assert "No space left" in lines[1]
    # Entries that decompress, and all the same cannot be loaded.
    warned("reading", "jit_g", "XlaRuntimeError: INTERNAL")
    assert [path.exists() for path in (whole, other)] == [True, False]
    assert len(lines) == 2
    with pytest.raises(UserWarning, match="of another kind"):
        warnings.warn("of another kind", stacklevel=1)


# -- on the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "opened"), [(["train"], True), (["eval"], True), (["validate"], False), (["--help"], False)]
)
def test_only_commands_that_compile_open_it_and_only_as_a_process(monkeypatch, tmp_path, line, opened):
    monkeypatch.setattr(cli, "open_cache", lambda environment, tell: seen.append(tell))
    monkeypatch.setattr(cli, "restart_with_allocator", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["jaxprop", *line])
    seen = []
    cli.main()
    assert bool(seen) == opened
    seen.clear()
    cli.main(line)
    assert seen == []


def test_importing_the_library_changes_nothing_of_jax():
    code = (
        "import jax; before = jax.config.values.copy(); import jaxprop, optax;"
        "jaxprop.make_train_step(lambda p, b, k: p['w'] ** 2, optax.sgd(0.1)); after = jax.config.values;"
        "print({k: v for k, v in after.items() if before.get(k) != v}, jax.config.jax_compilation_cache_dir)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JAXPROP_COMPILE_CACHE"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.stdout == "{} None\n", ran.stderr


TRAIN = ["digits_mlp", "model.hidden=[8]", "run.epochs=null", "run.steps=2", "optimizer.schedule.warmup_steps=0"]
TRAIN += ["health.layers=false"]  # one program of the step


def test_the_second_start_computes_the_same_bits_and_a_torn_entry_is_made_anew(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "JAXPROP_COMPILE_CACHE": ""}

    def train(name):
        command = [sys.executable, "-W", "error", "-m", "jaxprop", "train", *TRAIN, "--run", str(tmp_path / name)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        records = [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]
        return records, "compiled program could not be read" in ran.stderr

    first, mended = train("first")
    assert not mended
    kept = sorted((tmp_path / "cache" / "jaxprop").glob("compiled-*/jit_train_step-*-cache"))
    assert kept
    assert train("second") == (first, False)
    for path in kept:
        os.truncate(path, 1000)
    assert train("third") == (first, True)
    assert all(path.stat().st_size > 1000 for path in kept)
