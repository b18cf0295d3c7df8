import logging
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxprop.checkpoint import Checkpoints, digests
from jaxprop.errors import CheckpointError, UsageError
from jaxprop.types import TrainState
from tests.processes import started

TX = optax.adamw(1e-3)


def make_state(step=0, fill=0.5):
    params = {"a.b": jnp.full((3, 2), fill), "a": {"b": jnp.full(4, fill, jnp.bfloat16)}, "empty": jnp.zeros((0, 2))}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        extras={},
        opt_state=TX.init(params),
        key=jax.random.key(7),
        loss_scale=(),
        health={"skips": jnp.int32(2)},
        ema=(),
    )


def save(checkpoints, step, *, loss=None, state=None):
    metrics = None if loss is None else {"loss": loss}
    state = make_state(step, fill=float(step)) if state is None else state
    return checkpoints.save(step, state, stream={"at": step}, config={"seed": 1}, metrics=metrics)


def assert_same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_is_bitwise_and_keeps_the_structure(tmp_path):
    state = make_state(3, fill=0.1)
    stream, config = {"epoch": 2, "rng": 2**100}, {"model": {"hidden": [1, 2]}}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(3, state, stream=stream, config=config, metrics={"loss": 0.1 + 0.2}) is True
    with Checkpoints(tmp_path) as checkpoints:
        abstract = jax.eval_shape(lambda: make_state())
        with pytest.raises(UsageError, match=r"unknown checkpoint 'newst'; did you mean 'newest'"):
            checkpoints.restore(abstract, "newst")
        for restored in (checkpoints.restore(make_state()), *(checkpoints.restore(abstract, i) for i in (3, "newest"))):
            assert_same_bits(restored.state, state)
            assert restored[0] == 3
            assert restored[2:5] == (stream, config, {"loss": 0.1 + 0.2})


def test_an_empty_or_missing_folder_restores_to_none_and_stays_untouched(tmp_path):
    with Checkpoints(tmp_path / "none", best="loss") as checkpoints:
        assert checkpoints.restore(make_state()) is None
        assert checkpoints.restore(make_state(), "best") is None
        assert (checkpoints.latest(), checkpoints.best(), checkpoints.steps()) == (None, None, [])
        checkpoints.clear()
    assert not (tmp_path / "none").exists()


def test_a_state_donated_right_after_save_is_saved_as_it_was(tmp_path):
    @partial(jax.jit, donate_argnums=0)
    def advance(state):
        return jax.tree.map(lambda x: x * 0 - 1, state)

    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(1, 5):
            params = {"w": jnp.full((400, 500), float(step)), "s": jnp.float32(step)}
            state = make_state(step)._replace(params=params, opt_state=(), key=jnp.uint32([0, step]))
            save(checkpoints, step, state=state)
            for _ in range(5):
                state = advance(state)
            assert float(jax.block_until_ready(state).params["s"]) == -1
        for step in range(1, 5):
            restored = checkpoints.restore(state, step).state
            assert bool((restored.params["w"] == step).all())
            assert restored.params["s"] == step
            assert restored.key.tolist() == [0, step]


def test_training_goes_on_before_the_digests_are_there(tmp_path, monkeypatch):
    """They are of the state as it was, though the next step has written over it."""
    goes_on, state = threading.Event(), make_state(3, fill=0.1)
    wanted, sum_host, digested = make_state(3, fill=0.1), digests._sum_host, []

    def late(*arguments):
        goes_on.wait()
        digested.append(arguments)
        return sum_host(*arguments)

    monkeypatch.setattr(digests, "_sum_host", late)
    with Checkpoints(tmp_path) as checkpoints:
        assert save(checkpoints, 3, state=state)
        change = jax.jit(lambda params: jax.tree.map(lambda x: x + 1, params), donate_argnums=0)
        jax.block_until_ready(change(state.params))
        assert not digested
        goes_on.set()
        checkpoints.wait()
        assert_same_bits(checkpoints.restore(make_state()).state, wanted)
    assert digested


def late_beginning(checkpoints, monkeypatch):
    """Has the next save's thread begin only when the event that is returned is set."""
    goes_on, write = threading.Event(), checkpoints._write

    def late(*arguments):
        goes_on.wait()
        write(*arguments)

    monkeypatch.setattr(checkpoints, "_write", late)
    return goes_on


def test_training_goes_on_before_anything_is_written(tmp_path, monkeypatch):
    """All but the copy is done in the background: digests, the writer, its first import."""
    state, wanted = make_state(3, fill=0.1), make_state(3, fill=0.1)
    with Checkpoints(tmp_path) as checkpoints:
        goes_on = late_beginning(checkpoints, monkeypatch)
        assert save(checkpoints, 3, state=state)
        change = jax.jit(lambda params: jax.tree.map(lambda x: x + 1, params), donate_argnums=0)
        jax.block_until_ready(change(state.params))
        assert list(tmp_path.glob(".saving-*/*")) == []
        goes_on.set()
        checkpoints.wait()
        assert_same_bits(checkpoints.restore(make_state()).state, wanted)


def test_a_state_that_is_not_copied_waits_for_the_beginning_of_its_save(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxprop.checkpoint.copies._is_in_a_usual_place", lambda array: False)
    with Checkpoints(tmp_path) as checkpoints:
        goes_on = late_beginning(checkpoints, monkeypatch)
        returned = threading.Event()
        saving = threading.Thread(target=lambda: (save(checkpoints, 3), returned.set()))
        saving.start()
        assert not returned.wait(0.5)
        goes_on.set()
        assert returned.wait(60)
        saving.join()


def test_what_the_caller_changes_after_save_is_not_saved(tmp_path):
    stream, host = {"at": [1]}, np.arange(3)
    state = make_state()._replace(extras={"host": host})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, stream=stream, config={})
        stream["at"].append(2)
        host += 100
        restored = checkpoints.restore(state)
    assert restored.stream == {"at": [1]}
    assert restored.state.extras["host"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("keep", "best", "mode", "losses", "left", "is_best"),
    [
        (2, None, "min", [1.0, 2.0, 3.0, 4.0], [3, 4], None),
        (2, "loss", "min", [1.0, 2.0, 3.0, 4.0], [1, 3, 4], 1),
        (2, "loss", "min", [4.0, 3.0, 2.0, 1.0], [3, 4], 4),
        (1, "loss", "max", [1.0, 9.0, 3.0, 4.0], [2, 4], 2),
        (1, "loss", "min", [float("nan"), 2.0, None, 2.0], [2, 4], 2),
        (1, "loss", "min", [float("inf"), None, None, None], [4], None),
        (1, "accuracy", "max", [1.0, 2.0, 3.0, 4.0], [4], None),
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path, keep, best, mode, losses, left, is_best):
    with Checkpoints(tmp_path, keep=keep, best=best, mode=mode) as checkpoints:
        for step, loss in enumerate(losses, start=1):
            save(checkpoints, step, loss=loss)
            checkpoints.wait()
        assert checkpoints.steps() == left
        assert checkpoints.best() == is_best
        assert checkpoints.latest() == 4
        restored = checkpoints.restore(make_state(), "best")
        assert (restored and restored.step) == is_best
    assert names(tmp_path) == [str(step) for step in left]


def test_what_is_pinned_is_kept_too(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, pinned in ((1, {1}), (2, {1}), (3, {1, 3}), (4, {3}), (5, {3, 5})):
            checkpoints.pinned = frozenset(pinned)
            save(checkpoints, step)
    assert names(tmp_path) == ["3", "5"]


def test_without_waiting_at_most_one_more_lies_there_and_close_removes_it(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in range(1, 4):
            save(checkpoints, step)
            assert len(checkpoints.steps()) <= 2
    assert names(tmp_path) == ["3"]


def test_a_step_on_its_way_out_is_renamed_before_its_files_go(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    assert names(tmp_path) == ["2", "todelete"]
    assert [path.name.split("-")[0] for path in (tmp_path / "todelete").iterdir()] == ["1"]


def test_a_step_already_saved_is_left_as_it_is(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert save(checkpoints, 1, loss=1.0)
        assert not save(checkpoints, 1, loss=9.0, state=make_state(fill=9.0))
        assert checkpoints.restore(make_state()).metrics == {"loss": 1.0}


def test_clear_removes_all_or_the_later_steps_and_saving_goes_on(tmp_path):
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in (10, 20, 30):
            save(checkpoints, step)
        checkpoints.clear(after=10)
        assert checkpoints.steps() == [10]
        assert save(checkpoints, 20, state=make_state(20, fill=-1.0))
        assert checkpoints.restore(make_state()).state.params["a.b"][0, 0] == -1.0
        checkpoints.clear()
        assert checkpoints.steps() == []
        save(checkpoints, 1)
    assert names(tmp_path) == ["1"]


def test_a_lower_step_than_the_newest_can_be_saved(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert save(checkpoints, 30)
        assert save(checkpoints, 10)
    assert names(tmp_path) == ["10", "30"]


def test_garbage_is_passed_over_and_moved_aside_when_its_step_comes(tmp_path):
    (tmp_path / "99").mkdir()
    (tmp_path / "50").mkdir()
    (tmp_path / "50" / "mine.txt").write_text("keep me")
    (tmp_path / "7.orbax-checkpoint-tmp-1").mkdir()
    told = []
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.tell = told.append
        assert checkpoints.restore(make_state()) is None
        assert save(checkpoints, 5)
        assert checkpoints.latest() in (None, 5)
        assert save(checkpoints, 50)
        checkpoints.wait()
        assert checkpoints.restore(make_state()).step == 50
    left = names(tmp_path)
    assert [name for name in left if name.isdecimal()] == ["5", "50", "99"]
    assert not [name for name in left if "tmp" in name]
    (aside,) = tmp_path.glob("50.not-a-checkpoint*")
    assert (aside / "mine.txt").read_text() == "keep me"
    assert told == [f"ignored in {tmp_path}, since it is no checkpoint: '50', '7.orbax-checkpoint-tmp-1', '99'"]


MESH = {n: jax.make_mesh((n,), ("data",), devices=jax.devices()[:n], axis_types=(AxisType.Auto,)) for n in (1, 2, 8)}


@pytest.mark.parametrize(("devices", "later"), [(8, 2), (2, 8), (8, 1), (1, 8)])
def test_restores_onto_another_number_of_devices(tmp_path, devices, later):
    def place(n):
        split, whole = (NamedSharding(MESH[n], PartitionSpec(*axes)) for axes in (["data"], []))
        state = make_state(1)
        state = state._replace(params={"split": jnp.arange(16.0), "whole": jnp.arange(3.0)}, opt_state=())
        shardings = jax.tree.map(lambda _: whole, state)
        return jax.device_put(state, shardings._replace(params={"split": split, "whole": whole}))

    before, after = place(devices), place(later)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, state=before)
        restored = checkpoints.restore(after).state
    assert_same_bits(restored, before)
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(after), strict=True):
        assert ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)


def test_a_restored_leaf_is_committed_only_where_the_abstract_one_is(tmp_path):
    state = make_state()
    device = jax.devices()[3]
    tied = jax.device_put(state, device)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, state=state)
        assert not any(leaf.committed for leaf in jax.tree.leaves(checkpoints.restore(state).state))
        restored = checkpoints.restore(tied).state
    shown = [leaf for leaf in jax.tree.leaves(restored) if leaf.size]
    assert all(leaf.committed and leaf.sharding == SingleDeviceSharding(device) for leaf in shown)


def test_a_changed_model_is_refused(tmp_path):
    other = make_state()._replace(params={"a.b": jnp.ones((3, 5)), "new": jnp.ones(2)})
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 4)
        with pytest.raises(CheckpointError, match=r"params/a\.b is float32\[3,2\] there and float32\[3,5\] here"):
            checkpoints.restore(other)
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 3 in .*saved steps: 4"):
            checkpoints.restore(make_state(), 3)


def test_damaged_files_are_reported_with_the_way_on(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 4)
        save(checkpoints, 5)
        checkpoints.wait()
        for path in (tmp_path / "5" / "state").rglob("*"):
            if path.is_file() and "ocdbt" in path.name:
                path.write_bytes(b"garbage")
        with pytest.raises(CheckpointError, match=r"/5 is damaged: its arrays .* good one is of step 4$"):
            checkpoints.restore(make_state(), 5)
        assert checkpoints.restore(make_state(), 4).step == 4


# -- failures -------------------------------------------------------------------------------------


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"expected a folder for checkpoints at .*, got a file"):
        Checkpoints(tmp_path / "file")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"step 1 could not be written to .* choose another with --run DIR"):
        save(checkpoints, 1)


def save_more_than_fits(checkpoints, step):
    """Saves 256 KB of noise in four arrays, so that several writes fail."""
    noise = {str(i): jax.random.normal(jax.random.key(i), (128, 128)) for i in range(4)}
    return save(checkpoints, step, state=make_state(step)._replace(extras=noise))


@pytest.fixture
def full_disk():
    """No file may grow beyond 16 KB: writes fail in the background as on a full disk. Call it to end that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    yield partial(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


FULL = r"step 1 could not be written to \S+ \(File too large\); .*free space"


@pytest.mark.parametrize("call", ["wait", "close", "restore", "save", "clear"])
def test_a_save_that_failed_in_the_background_is_an_error_at_the_next_call(tmp_path, full_disk, call):
    checkpoints = Checkpoints(tmp_path)
    assert save_more_than_fits(checkpoints, 1)
    calls = {
        "wait": checkpoints.wait,
        "close": checkpoints.close,
        "clear": checkpoints.clear,
        "restore": lambda: checkpoints.restore(make_state()),
        "save": lambda: save(checkpoints, 2),
    }
    with pytest.raises(CheckpointError, match=FULL):
        calls[call]()
    checkpoints.close()  # once reported, it is over
    assert checkpoints.steps() == []


def test_saving_goes_on_after_a_failure_and_leaves_no_leftovers(tmp_path, full_disk):
    with Checkpoints(tmp_path) as checkpoints:
        save_more_than_fits(checkpoints, 1)
        with pytest.raises(CheckpointError, match=FULL):
            checkpoints.wait()
        full_disk()
        save(checkpoints, 1)
        checkpoints.wait()
        save(checkpoints, 2)
    assert names(tmp_path) == ["1", "2"]


@pytest.mark.parametrize("interrupt", [None, KeyboardInterrupt, SystemExit])
def test_leaving_the_context_raises_the_failure(tmp_path, full_disk, interrupt):
    def run():
        with Checkpoints(tmp_path) as checkpoints:
            save_more_than_fits(checkpoints, 1)
            if interrupt:
                raise interrupt

    with pytest.raises(CheckpointError, match=FULL):
        run()


def test_a_failure_is_noted_on_an_error_in_flight(tmp_path, full_disk):
    def run():
        with Checkpoints(tmp_path) as checkpoints:
            save_more_than_fits(checkpoints, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run()
    assert re.search(FULL, caught.value.__notes__[0])


def test_a_save_that_leaves_nothing_behind_is_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    while not checkpoints._saving.has_ended:
        time.sleep(0.01)
    (tmp_path / "1").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"step 1 could not be written .*not there after saving"):
        checkpoints.close()


def test_a_failure_is_not_printed_besides(tmp_path, full_disk, caplog, capfd):
    checkpoints = Checkpoints(tmp_path)
    save_more_than_fits(checkpoints, 1)
    with pytest.raises(CheckpointError):
        checkpoints.close()
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_what_asyncio_says_of_a_failed_write_later_is_not_printed_either(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    log = logging.getLogger("asyncio")
    log.error("exception was never retrieved\nfuture: ValueError('%s')", tmp_path / "1.orbax-checkpoint-tmp/state")
    assert not caplog.records
    log.error("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]


# -- kill -9 --------------------------------------------------------------------------------------

TRAINER = """
    import sys
    import jax.numpy as jnp
    from jaxprop.checkpoint import Checkpoints
    from jaxprop.types import TrainState

    with Checkpoints(sys.argv[1], keep=1, best="loss") as checkpoints:
        for step in range(1 + (checkpoints.latest() or 0), 10_000):
            w = {str(i): jnp.full((200, 300), float(step)) for i in range(4)}
            state = TrainState(jnp.int32(step), w, {}, (), jnp.uint32(0), (), {}, ())
            checkpoints.save(step, state, stream={"at": step}, config={}, metrics={"loss": float(step % 7)})
            print(step, flush=True)
"""


def test_kill_9_leaves_every_listed_step_whole(tmp_path):
    leaf = jnp.zeros((200, 300))
    abstract = TrainState(jnp.int32(0), {str(i): leaf for i in range(4)}, {}, (), jnp.uint32(0), (), {}, ())
    command = [sys.executable, "-c", textwrap.dedent(TRAINER), str(tmp_path / "checkpoints")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    for kill in range(3):
        with started(command, stdout=subprocess.PIPE, env=environment) as process:
            lines = [process.stdout.readline() for _ in range(4 + kill)]
            time.sleep(0.013 * kill)
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        assert process.returncode == -signal.SIGKILL
        last = int(lines[-1])
        checkpoints = Checkpoints(tmp_path / "checkpoints", best="loss")
        assert checkpoints.latest() >= last - 1  # the one that was being saved may be lost
        for step in checkpoints.steps():
            restored = checkpoints.restore(abstract, step)
            assert restored.stream == {"at": step}
            assert all(bool((w == step).all()) for w in restored.state.params.values())
        checkpoints.close()
