import json
import shutil
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.checkpoint import Checkpoints, arrays, leaves, manifest
from jaxprop.checkpoint.failures import DamagedError
from jaxprop.checkpoint.verify import read_verified
from jaxprop.errors import CheckpointError
from jaxprop.types import TrainState
from tests.checkpoint import damage


def make_state(step):
    params = {"dense": {"kernel": jax.random.normal(jax.random.key(step), (16, 20)), "bias": jnp.ones(4, jnp.bfloat16)}}
    return TrainState(
        jnp.int32(step), params, {}, ({"mu": params},), jax.random.key(step), (), {}, {"empty": jnp.ones((0, 2))}
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (damage.OLDER, damage.NEWER):
            checkpoints.save(step, make_state(step), stream={"at": step}, config={}, metrics={"loss": float(step)})
    return folder


def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def other_leaf(path, number=1):
    """A checkpoint whose leaf was written anew with one bit flipped, as Orbax would find nothing wrong with."""
    record = manifest.read(path)
    state = make_state(damage.NEWER)
    packed, _ = leaves.pack(state)
    words = np.array(packed[str(number)])
    words.view(np.uint8).reshape(-1)[-1] ^= 1
    shutil.rmtree(path / "state")
    writer = arrays.writer()
    writer.save(path.parent / "again", args=arrays.arguments({**packed, str(number): jnp.asarray(words)}))
    writer.wait_until_finished()
    writer.close()
    (path.parent / "again" / "state").rename(path / "state")
    shutil.rmtree(path.parent / "again")
    return record["leaves"][number][0]


@pytest.mark.parametrize(("number", "name"), [(1, "params/dense/bias"), (4, "opt_state/0/mu/dense/kernel"), (5, "key")])
def test_a_leaf_with_one_other_bit_is_named_and_the_older_step_restored(saved, tmp_path, number, name):
    folder, told = copied(saved, tmp_path), []
    assert other_leaf(folder / "900", number) == name
    with Checkpoints(folder) as checkpoints:
        checkpoints.tell = told.append
        restored = checkpoints.restore(make_state(0))
        assert (restored.step, restored.stream) == (800, {"at": 800})
        assert told == [
            f"the checkpoint of step 900 is damaged: {name} differs from its digest; going on from step 800, 100 steps "
            f"before it; what is damaged is moved to {folder}/damaged at the next save"
        ]
        assert checkpoints.steps() == [800]
        assert checkpoints.save(900, make_state(900), stream={}, config={})  # which the damaged one does not prevent
        assert checkpoints.restore(make_state(0)).step == 900
    assert sorted(path.name for path in folder.iterdir()) == ["800", "900", "damaged"]
    assert (folder / "damaged" / "900" / "state").is_dir()


def test_no_other_takes_the_place_of_one_that_is_asked_for(saved, tmp_path):
    folder = copied(saved, tmp_path)
    other_leaf(folder / "900")
    for asked, best in ((900, None), ("best", "loss")):
        with Checkpoints(folder, best=best, mode="max") as checkpoints:
            said = r"/900 is damaged: params/dense/bias differs from its digest; the newest good one is of step 800$"
            with pytest.raises(DamagedError, match=said):
                checkpoints.restore(make_state(0), asked)
            assert checkpoints.steps() == [800, 900]
    shutil.rmtree(folder / "800")
    with Checkpoints(folder) as checkpoints, pytest.raises(DamagedError, match=r"digest; there is no other$"):
        checkpoints.restore(make_state(0), 900)


def test_where_none_is_good_it_is_an_error_and_nothing_is_removed(saved, tmp_path):
    folder = copied(saved, tmp_path)
    (folder / "800" / "manifest.json").unlink()
    other_leaf(folder / "900")
    before = sorted(folder.rglob("*"))
    says = (
        r"can be used \(step 800: its manifest.json is missing; step 900: params/dense/bias .*\); use --run .*--fresh"
    )
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError, match=says):
        checkpoints.restore(make_state(0))
    assert sorted(folder.rglob("*")) == before


def test_several_leaves_are_counted(saved, tmp_path):
    folder = copied(saved, tmp_path)
    shutil.rmtree(folder / "900" / "state")
    shutil.copytree(folder / "800" / "state", folder / "900" / "state")
    with pytest.raises(DamagedError, match=r"step differs from its digest, and so do 3 more$"):
        read_verified(folder / "900", folder / "900", make_state(0))


def test_a_link_in_a_checkpoint_is_not_followed(saved, tmp_path):
    folder = copied(saved, tmp_path)
    (folder / "900" / "state").rename(tmp_path / "elsewhere")
    (folder / "900" / "state").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="state is a link, and nothing is read from outside"):
        read_verified(folder / "900", folder / "900", make_state(0))


def test_out_of_memory_is_not_taken_for_damage(saved, monkeypatch):
    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")

    monkeypatch.setattr("jaxprop.checkpoint.verify.read_arrays", full)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        read_verified(saved / "900", saved / "900", make_state(0))


def as_saved_before(step):
    """Makes a checkpoint what jaxprop wrote before it kept digests."""
    record = manifest.read(step)
    first = {name: record[name] for name in ("leaves", "key_impls", "stream", "config", "metrics")}
    (step / "manifest.json").unlink()
    (step / "run").mkdir()
    (step / "run" / "run.json").write_text(json.dumps(first))
    return step


def test_checkpoints_without_digests_are_restored_with_a_note(saved, tmp_path):
    folder, told = copied(saved, tmp_path), []
    as_saved_before(folder / "900")
    with Checkpoints(folder) as checkpoints:
        checkpoints.tell = told.append
        restored = checkpoints.restore(make_state(0))
        checkpoints.amend(900, metrics={"loss": 0.5}, stream={"evaluated": True})
        assert checkpoints.steps() == [800, 900]
        assert checkpoints.restore(make_state(0)).stream == {"at": 900, "evaluated": True}
    assert (restored.step, restored.made) == (900, None)
    note = f"the checkpoint {folder}/900 is of an earlier version, which kept no digests: it cannot be verified"
    assert told == [note, note]
    assert not (folder / "900" / "manifest.json").exists()


def test_one_without_digests_that_lacks_something_is_damaged(saved, tmp_path):
    folder = copied(saved, tmp_path)
    (as_saved_before(folder / "900") / "run" / "run.json").write_text('{"leaves": []}')
    with pytest.raises(DamagedError, match=r"its run/run.json lacks key_impls, stream, config, metrics"):
        read_verified(folder / "900", folder / "900", make_state(0))


@pytest.mark.timeout(300)
def test_no_damage_is_silent(saved):
    """A tenth of the trials in docs/results/FAULTS.md."""
    trials = [damage.trial(saved, make_state(damage.NEWER), seed) for seed in range(200)]
    assert [one for one in trials if one.outcome == damage.SILENT] == []
    outcomes = Counter((one.file, one.outcome) for one in trials)
    assert outcomes["manifest.json", damage.CAUGHT] > 10
    assert outcomes["state/ocdbt.process_0/d/*", damage.CAUGHT] > 10
    assert outcomes["manifest.json", damage.HARMLESS] == outcomes["state/d/*", damage.HARMLESS] == 0


def test_the_harness_sees_what_is_silent(saved, monkeypatch):
    """Without digests, other bits are restored without a word, which it must notice."""
    monkeypatch.setattr("jaxprop.checkpoint.verify._compare", lambda *_: None)
    found = Counter(damage.trial(saved, make_state(damage.NEWER), seed).outcome for seed in range(0, 60, 2))
    assert found[damage.SILENT] > 0
