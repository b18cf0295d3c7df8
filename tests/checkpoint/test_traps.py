"""What goes wrong with Orbax by itself, and with disks that are full: each was measured once."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprop.checkpoint import Checkpoints, space
from jaxprop.errors import CheckpointError
from jaxprop.types import TrainState

ROOT = Path(__file__).parents[2]


def make_state(step=0, **params):
    return TrainState(jnp.int32(step), params or {"w": jnp.full((8,), float(step))}, {}, (), jnp.uint32(0), (), {}, ())


def save(checkpoints, step, state=None):
    return checkpoints.save(step, make_state(step) if state is None else state, stream={"at": step}, config={})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -- names ----------------------------------------------------------------------------------------


def test_an_empty_step_is_not_the_newest_one_and_does_not_end_saving(tmp_path):
    (tmp_path / "99").mkdir()
    told = []
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.tell = told.append
        assert checkpoints.latest() is None
        assert checkpoints.take_over() == []
        assert [save(checkpoints, step) for step in (5, 6, 99)] == [True] * 3
        assert checkpoints.restore(make_state()).step == 99
    assert told == [f"ignored in {tmp_path}, since it is no checkpoint: '99'"]  # once


def test_what_is_no_checkpoint_is_told_once_and_order_is_by_step(tmp_path):
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in (9, 10, 100):
            save(checkpoints, step)
    for name in ("007", "1e3", "٣", "99.orbax-checkpoint-tmp-1", "100 (copy)"):
        shutil.copytree(tmp_path / "10", tmp_path / name)
    (tmp_path / "500").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    far = time.time() + 10 * 365 * 86400
    for path in [tmp_path / "9", *(tmp_path / "9").rglob("*")]:  # saved last, says the clock
        os.utime(path, (far, far))
    told = []
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.tell = told.append
        assert checkpoints.take_over() == [9, 10, 100]
        assert checkpoints.restore(make_state()).step == 100
        checkpoints.retire()
        assert checkpoints.steps() == [10, 100]
    kept = {"007", "1e3", "٣", "100 (copy)", "500", "notes.txt"}
    assert set(names(tmp_path)) == {"10", "100", *kept}
    assert len(told) == 1
    assert told[0].startswith(f"ignored in {tmp_path}, since it is no checkpoint: '007', '100 (copy)', '1e3', '500', ")


def test_a_partial_copy_is_damaged_and_not_the_newest(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 5)
    shutil.copytree(tmp_path / "5" / "state", tmp_path / "77" / "state")
    told = []
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.tell = told.append
        assert checkpoints.restore(make_state()).step == 5
    assert "the checkpoint of step 77 is damaged: its manifest.json is missing; going on from step 5" in told[0]


def test_keys_that_collide_keep_their_arrays(tmp_path):
    state = make_state(1, **{"a.b": jnp.ones(2), "a": {"b": jnp.zeros(3)}, "a/b": jnp.full(4, 2.0)})
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, state)
        restored = checkpoints.restore(state).state
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), restored, state))


class Moments(NamedTuple):
    mu: object
    nu: object


def test_tuples_come_back_as_what_they_were(tmp_path):
    params = {"w": jnp.ones(3)}
    optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))
    state = make_state(1)._replace(opt_state=(optimizer.init(params), Moments(params, (params,)), [jnp.ones(1)]))
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, state)
        restored = checkpoints.restore(jax.eval_shape(lambda: state)).state
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert type(restored.opt_state[1]) is Moments


# -- two at once ----------------------------------------------------------------------------------


def error_of_closing(checkpoints):
    try:
        checkpoints.close()
    except CheckpointError as error:
        return error


def test_two_in_one_folder_never_overwrite_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "jaxprop.checkpoint.folder.leftovers_in", lambda folder: []
    )  # else the first one's save is lost
    first, second = Checkpoints(tmp_path), Checkpoints(tmp_path)
    assert save(first, 3, make_state(3))
    assert save(second, 3, make_state(4)) in (True, False)
    told = [str(error) for error in map(error_of_closing, (first, second)) if error is not None]
    assert len(told) <= 1
    assert all("another process has written a checkpoint of this step meanwhile" in text for text in told)
    restored = Checkpoints(tmp_path).restore(make_state())
    assert restored.state.params["w"].tolist() in ([3.0] * 8, [4.0] * 8)


def test_a_step_that_another_writes_meanwhile_is_an_error(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)

    def other(folder):
        if folder.parent.name != "3" and folder.name == "3":
            (tmp_path / "3").mkdir()

    monkeypatch.setattr("jaxprop.checkpoint.folder.sync_all", other)
    save(checkpoints, 3)
    with pytest.raises(CheckpointError, match="another process has written a checkpoint of this step meanwhile"):
        checkpoints.close()


# -- ends of the process --------------------------------------------------------------------------

CHILD = """
    import sys, resource, signal, time
    import jax, jax.numpy as jnp
    from jaxprop.checkpoint import Checkpoints
    from jaxprop.types import TrainState

    def state(step, size=300):
        w = {{str(i): jax.random.normal(jax.random.key(i), (size, size)) for i in range(4)}}
        return TrainState(jnp.int32(step), w, {{}}, (), jnp.uint32(0), (), {{}}, ())

    def save(step, **sizes):
        return checkpoints.save(step, state(step, **sizes), stream={{}}, config={{}})

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, resource.RLIM_INFINITY))

    checkpoints = Checkpoints(sys.argv[1])
    {act}
"""


def child(act, folder):
    text = textwrap.dedent(CHILD).format(act=textwrap.dedent(act).strip())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-c", text, str(folder)], capture_output=True, text=True, timeout=100, env=environment
    )


LATE = """
    write = checkpoints._write
    def late(*arguments):
        while not sys._is_closing:
            time.sleep(0.05)
        write(*arguments)
    sys._is_closing = False
    checkpoints._write = late
    import atexit, threading
    print(save(1))
    threading._register_atexit(lambda: setattr(sys, "_is_closing", True))
"""


def test_a_process_that_leaves_without_closing_has_saved(tmp_path):
    """Pools take no work from the end of the main thread on, which a save that has not begun to write would need."""
    ended = child(LATE, tmp_path)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("True\n", "", 0)
    assert Checkpoints(tmp_path).steps() == [1]


def test_a_failed_save_that_nobody_asked_about_is_an_error(tmp_path):
    """Orbax's own manager says True, lists the step, and ends with 0 and without a word."""
    ended = child("full(); print(save(1), checkpoints.latest())", tmp_path)
    assert ended.stdout == "True None\n"
    assert ended.returncode == 1
    assert "error: the checkpoint of step 1 was not written: " in ended.stderr


INTERRUPTED = """
    import os, threading
    real = checkpoints._write
    def slow(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        real(*arguments)
    checkpoints._write = slow
    with checkpoints:
        save(1)
"""


def test_an_interrupt_in_the_middle_of_a_save_waits_for_it(tmp_path, default_signals):
    ended = child(INTERRUPTED, tmp_path)
    assert ended.returncode != 0
    assert "KeyboardInterrupt" in ended.stderr
    assert names(tmp_path) == ["1"]
    assert Checkpoints(tmp_path).steps() == [1]


@pytest.mark.parametrize("act", ["raise SystemExit(7)", "raise ZeroDivisionError"])
def test_leaving_by_an_error_closes(tmp_path, act):
    ended = child(f"with checkpoints:\n        save(1)\n        {act}", tmp_path)
    assert ended.returncode in (7, 1)
    assert names(tmp_path) == ["1"]


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_is_set_during_a_save_changes_nothing(tmp_path, years, monkeypatch):
    real, jumps = time.time, [0.0]
    monkeypatch.setattr("time.time", lambda: real() + jumps[0])
    monkeypatch.setattr("time.time_ns", lambda: int(1e9 * (real() + jumps[0])))
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            started = checkpoints._write

            def jump(*arguments, started=started):
                jumps[0] += years * 365 * 86400.0
                started(*arguments)

            monkeypatch.setattr(checkpoints, "_write", jump)
            save(checkpoints, step)
            jumps[0] += years * 365 * 86400.0
            checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
        assert checkpoints.restore(make_state()).step == 3


def test_what_orbax_gives_up_at_its_beginning_is_begun_once_more(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        checkpoints.wait()
        begun, failures = checkpoints._writer.save, [TimeoutError("0.00 seconds")]

        def late(path, **arguments):
            begun(path, **arguments)
            checkpoints._writer.wait_until_finished()
            if failures:
                raise failures.pop()

        monkeypatch.setattr(checkpoints._writer, "save", late)
        save(checkpoints, 2)
        checkpoints.wait()
        assert checkpoints.restore(make_state()).step == 2
        failures += [TimeoutError("0.00 seconds")] * 2
        save(checkpoints, 3)
        with pytest.raises(CheckpointError, match=r"0\.00 seconds"):
            checkpoints.wait()
        assert checkpoints.steps() == [1, 2]


# -- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of so many bytes and inodes; skips where that is not allowed."""
    mounted = []

    def mount(size, inodes):
        place = tmp_path / "disk"
        place.mkdir()
        option = f"size={size},nr_inodes={inodes}"
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(place)], capture_output=True)
        if made.returncode:
            pytest.skip("mounting a small disk is not allowed here")
        mounted.append(place)
        return place

    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def noise(size=100):
    return make_state(1, **{str(i): jax.random.normal(jax.random.key(i), (size, size)) for i in range(4)})


def test_a_save_that_cannot_fit_is_refused_with_the_numbers(small_disk):
    for size, inodes, lacking in (("400k", 500, "640 KB are needed and 410 KB are free"),):
        place = small_disk(size, inodes)
        with Checkpoints(place / "ck") as checkpoints:
            with pytest.raises(CheckpointError, match=rf"step 1 does not fit on the disk of .*: {lacking}; free space"):
                save(checkpoints, 1, noise(200))
            assert save(checkpoints, 2, noise(20))
        assert Checkpoints(place / "ck").steps() == [2]


def test_a_disk_too_small_for_what_is_kept_is_told_at_the_start(small_disk):
    place, told = small_disk("2m", 500), []
    checkpoints = Checkpoints(place / "ck", keep=2)
    checkpoints.tell = told.append
    checkpoints.tell_of_space(noise(100))
    assert told == []
    checkpoints.tell_of_space(noise(200))
    assert len(told) == 1
    assert re.search(
        r"too small for this run: 2\.56 MB are needed and 2\.\d+ MB are free, for checkpoint\.keep=2", told[0]
    )


def error_of_saving(folder, step):
    try:
        with Checkpoints(folder, keep=9) as checkpoints:
            save(checkpoints, step, noise(20))
    except CheckpointError as error:
        return str(error)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("inodes", [6, 9, 12, 15, 18, 21, 24, 27, 30, 45, 60, 75])
def test_no_inode_left_is_an_error_and_never_a_hang(small_disk, inodes, monkeypatch):
    """Wherever in a save the inodes run out; what was saved before stays, and what was not is removed."""
    monkeypatch.setattr(space, "FILES", 0)  # what the check before a save does not see
    place, began = small_disk("8m", inodes), time.monotonic()
    errors = {step: error_of_saving(place / "ck", step) for step in (1, 2, 3, 4)}
    assert time.monotonic() - began < 60
    assert any(errors.values()) or inodes > 45
    assert all("No space left on device" in error for error in errors.values() if error)
    assert not [name for name in names(place / "ck") if name.startswith(".saving")]
    saved = [step for step, error in errors.items() if not error]
    checkpoints = Checkpoints(place / "ck", keep=9)
    assert checkpoints.steps() == saved
    for step in saved:
        restored = checkpoints.restore(noise(20), step)
        assert np.array_equal(restored.state.params["0"], noise(20).params["0"])


def test_a_process_on_a_disk_without_inodes_ends_with_the_error(small_disk):
    place = small_disk("8m", 12)
    ended = child("from jaxprop.checkpoint import space; space.FILES = 0; print(save(1))", place / "ck")
    assert ended.returncode == 1
    assert "error: the checkpoint of step 1 was not written: " in ended.stderr or "CheckpointError" in ended.stderr


def test_what_failed_saves_have_left_is_removed_by_the_next_run(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 3)
    shutil.copytree(tmp_path / "3", tmp_path / ".saving-0123" / "6")
    shutil.copytree(tmp_path / "3", tmp_path / "6.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.take_over() == [3]
    assert names(tmp_path) == ["3"]


def test_an_older_step_half_deleted_is_not_listed(tmp_path, monkeypatch):
    """As a kill leaves it in the middle of a removal."""
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step)
    monkeypatch.setattr("jaxprop.checkpoint.folder.remove", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Checkpoints(tmp_path, keep=1).retire()
    monkeypatch.undo()
    assert Checkpoints(tmp_path).steps() == [2]
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        save(checkpoints, 3)
    assert names(tmp_path) == ["3"]
