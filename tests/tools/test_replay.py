"""A failing step taken again: the same step, in its parts, and what is said of it."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxprop import data
from jaxprop.checkpoint import leaves
from jaxprop.core.precision import policy
from jaxprop.errors import RunFolderError, UsageError
from jaxprop.health import find_nonfinite
from jaxprop.run.blackbox import boxes, read_box
from jaxprop.run.folder import write_summary
from jaxprop.tools import replay as replays
from jaxprop.tools.replay import parts, replay, replay_run
from tests.benches import Bench, Poisoned, as_by_0_1_0

pytestmark = pytest.mark.timeout(400)  # the fixtures train, and some tests start another Python

BAD = (4, 5, 17)


class OneBad(Poisoned):
    """Poisons a few examples only."""

    def __next__(self):
        batch = super().__next__()
        if np.isnan(batch["inputs"]).any():
            clean = np.zeros_like(batch["inputs"])
            clean[list(BAD)] = np.nan
            return {**batch, "inputs": clean}
        return batch


@pytest.fixture(scope="module")
def bench():
    return Bench({})


@pytest.fixture(scope="module")
def failed(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("failed")
    bench.train(folder, stream=OneBad(bench, {3, 4}))
    shutil.copy(boxes(folder)[0] / "config.yaml", folder / "config.yaml")
    return folder


def test_the_input_and_the_examples_are_named_by_their_place_in_the_whole_batch(failed):
    """Two microbatches of 120: one of the examples is in the first, two in the second."""
    found = replay_run(failed)
    assert found.step == 4
    assert (found.finding.primitive, found.finding.layer) == ("input", "batch/inputs")
    assert (found.finding.examples, found.finding.batch_size) == (BAD, 240)
    assert found.notes == ()
    written = json.loads((failed / "blackbox" / "4" / "finding.json").read_text())
    assert written["examples"] == list(BAD)
    assert written["message"] in found.message


def test_it_is_found_again_in_a_fresh_process(failed):
    box = boxes(failed)[0]
    here = replay(box)
    done = subprocess.run([sys.executable, str(box / "repro.py")], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == here.message


def test_the_parts_are_what_the_step_computes(bench, tmp_path):
    """The losses of a healthy step's parts add up to the step's, and so do the gradients."""
    bench.train(tmp_path, stream=OneBad(bench, {3, 4}))
    box = read_box(boxes(tmp_path)[0])
    stream = Poisoned(bench, set())
    batch = [next(stream) for _ in range(4)][3]
    state = leaves.unpack(box.arrays, box.key_impls, bench.state)
    got = list(parts(bench.experiment, state, box._replace(batch=batch)))
    losses = [part.loss_fn(part.params, part.batch, part.key) for part in got]
    weights = [float(part.batch["weight"].sum()) for part in got]
    state = state._replace(step=np.int32(box.step - 1))
    _, measured = bench.experiment.step(jax.device_put(state), batch, "lean")
    assert float(measured.loss) == pytest.approx(float(np.average(losses, weights=weights)), rel=1e-6)


def test_a_finite_step_is_said_to_be(failed, tmp_path, bench):
    shutil.copytree(failed, tmp_path / "run")
    box = boxes(tmp_path / "run")[0]
    stream = Poisoned(bench, set())
    save_file(dict(next(stream)), box / "batch.safetensors")
    found = replay_run(tmp_path / "run")
    assert found.finding is None
    assert "loss and gradients are finite this time" in found.message
    assert not (box / "finding.json").exists()


def test_a_box_of_another_run_is_said_to_be(failed, tmp_path):
    folder = shutil.copytree(failed, tmp_path / "run")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace(" seed: 0", " seed: 1"))
    for named in (folder, boxes(folder)[0]):
        notes = replay_run(named).notes
        assert notes[0] == f"the black box is of another run than the one in {folder}, which has run.seed: 0 -> 1"


def test_nothing_is_written_through_a_link(failed, tmp_path):
    folder, mine = shutil.copytree(failed, tmp_path / "run"), tmp_path / "mine"
    mine.write_text("mine")
    finding = boxes(folder)[0] / "finding.json"
    finding.unlink(missing_ok=True)
    finding.symlink_to(mine)
    with pytest.raises(RunFolderError, match=r"finding.json cannot be written \(it is a link, and jaxprop writes"):
        replay_run(folder)
    assert mine.read_text() == "mine"
    elsewhere = shutil.move(folder / "blackbox", tmp_path / "elsewhere")
    (folder / "blackbox").symlink_to(elsewhere)
    with pytest.raises(UsageError, match="no black box"):
        replay_run(folder)


def test_what_is_not_as_it_was_is_noted(failed, tmp_path):
    folder = shutil.copytree(boxes(failed)[0], tmp_path / "4")
    about = json.loads((folder / "box.json").read_text())
    about["versions"]["jax"] = "0.1"
    about |= {"device": "TPU v9\x1b[2J", "updates": 2, "sources": about["sources"] | {"losses.py": "0"}}
    (folder / "box.json").write_text(json.dumps(about))
    notes = "\n".join(replay(folder).notes)
    assert "the step failed with jax 0.1, now " in notes
    assert "jaxprop/losses.py has changed since the step failed" in notes
    assert "the step failed on TPU v9" in notes
    assert "\x1b" not in replay(folder).message
    assert "the state has seen 2 updates more" in notes


LARGE = {
    "model": {"name": "mlp", "batch_norm": False},
    "run": {"steps": 5, "log_every": 1, "eval_every": 5, "accumulate": 2},
}


def test_gradients_whose_squares_overflow_are_no_failure(tmp_path):
    plain = Bench(LARGE)
    trained = plain.train(tmp_path, stream=Poisoned(plain, {1}, factor=1e30))
    assert boxes(tmp_path) == []
    assert trained.metrics[1]["grad_norm"] > 1e20  # squared, it is beyond float32
    assert "skips" not in trained.metrics[-1]


def test_a_sum_of_microbatches_beyond_float32_is_told(tmp_path):
    plain = Bench(LARGE)
    plain.train(tmp_path, stream=Poisoned(plain, {1}, factor=2e36))
    assert [path.name for path in boxes(tmp_path)] == ["2"]
    found = replay(boxes(tmp_path)[0]).finding
    assert (found.phase, found.suspect) == ("backward", "sum")
    assert "every microbatch is finite, but their weighted sum is not" in found.message
    assert found.layer in found.message


def test_the_box_itself_may_be_named(failed):
    assert replay_run(boxes(failed)[0]).step == 4


TEXT = {
    "task": {"name": "language"},
    "data": {
        "name": "stdlib_text",
        "sequence_length": 16,
        "max_bytes": 40000,
        "batch_size": 8,
        "eval_batch_size": None,
    },
}
MODELS = {
    "mlp": {"model": {"name": "mlp", "dropout": 0.3, "batch_norm": True}},
    "cnn": {"model": {"name": "cnn", "channels": [2], "hidden": [4]}},
    **{cell: TEXT | {"model": {"name": "rnn", "cell": cell, "width": 8}} for cell in ("elman", "gru", "lstm")},
    "transformer": TEXT | {"model": {"name": "transformer", "layers": 2, "width": 8, "heads": 2}},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_healthy_step_of_every_model_has_nothing_to_find(name):
    over = {"run": {"steps": 5, "accumulate": 1, "eval_every": 5}, "optimizer": {"name": "sgd", "lr": 0.1}}
    bench = Bench(MODELS[name] | over)
    objective, state = bench.experiment.task.objective, bench.state
    batch = next(data.one_pass(bench.experiment.sources["train"], 8))
    loss_fn = replays.scaled(objective, state.extras, policy("float32"), None)
    assert find_nonfinite(loss_fn, state.params, batch, state.key) is None
    broken = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(np.nan), state.params)
    assert find_nonfinite(loss_fn, broken, batch, state.key, examples=False).primitive == "input"


# -- what cannot be replayed ----------------------------------------------------------------------


def run_folder(tmp_path, failed):
    shutil.copy(failed / "config.yaml", tmp_path / "config.yaml")
    return tmp_path


def test_a_run_that_never_failed(tmp_path, failed):
    folder = run_folder(tmp_path, failed)
    write_summary(folder, {"status": "completed", "step": 14})
    with pytest.raises(UsageError, match="no black box to replay: none of its 14 steps was non-finite"):
        replay_run(folder)


def test_a_run_that_has_not_ended(tmp_path, failed):
    with pytest.raises(UsageError, match="no step of it has failed so far, and the run has not ended"):
        replay_run(run_folder(tmp_path, failed))


def test_a_run_that_was_told_to_keep_none(tmp_path, failed):
    folder = run_folder(tmp_path, failed)
    text = (folder / "config.yaml").read_text()
    assert "blackboxes: 3" in text
    (folder / "config.yaml").write_text(text.replace("blackboxes: 3", "blackboxes: 0"))
    with pytest.raises(UsageError, match=r"health\.blackboxes is 0"):
        replay_run(folder)


def test_a_step_without_a_box(failed):
    with pytest.raises(UsageError, match="has no black box of step 7; it has 4"):
        replay_run(failed, 7)


def test_no_such_run(tmp_path):
    with pytest.raises(UsageError, match="there is no such run folder"):
        replay_run(tmp_path / "none")


def damaged(failed, tmp_path, change):
    folder = shutil.copytree(boxes(failed)[0], tmp_path / "4")
    box = read_box(folder)
    change(box.arrays, box.batch)
    save_file(box.arrays, folder / "state.safetensors")
    save_file(box.batch, folder / "batch.safetensors")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, batch: arrays.pop("1"),
        lambda arrays, batch: arrays.update({"1": np.zeros((3, 3), np.float32)}),
        lambda arrays, batch: batch.pop("labels"),
        lambda arrays, batch: batch.update({"inputs": np.zeros((240, 3), np.float32)}),
    ],
    ids=["leaf missing", "leaf of another shape", "batch without labels", "batch of another shape"],
)
def test_a_box_that_does_not_fit_its_config(failed, tmp_path, change):
    folder = damaged(failed, tmp_path, change)
    with pytest.raises(RunFolderError, match=r"is damaged: its state or its batch does not fit its config\.yaml"):
        replay(folder)


def test_a_box_of_0_1_0_is_replayed(tmp_path):
    bench = Bench({"model": {"name": "mlp", "batch_norm": False}, "run": {"steps": 5, "eval_every": 5}})
    bench.train(tmp_path, stream=OneBad(bench, {3, 4}))
    (folder,) = boxes(tmp_path)
    box, expected = read_box(folder), replay(folder)
    state = leaves.unpack(box.arrays, box.key_impls, bench.state)
    arrays, manifest = leaves.pack(as_by_0_1_0(state))
    assert manifest["leaves"] != box.about["leaves"]
    save_file({name: np.asarray(array) for name, array in arrays.items()}, folder / "state.safetensors")
    (folder / "box.json").write_text(json.dumps(json.loads((folder / "box.json").read_text()) | manifest))
    assert expected.finding.examples == BAD
    assert replay(folder) == expected


def test_a_damaged_box_gets_one_sentence_from_its_own_script_too(failed, tmp_path):
    folder = damaged(failed, tmp_path, lambda arrays, batch: arrays.pop("1"))
    done = subprocess.run([sys.executable, str(folder / "repro.py")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_versions_that_are_noted_are_recorded(failed):
    assert set(replays.NOTED) <= set(read_box(boxes(failed)[0]).about["versions"])


def test_a_step_with_augmentation_is_taken_again_with_the_same_changes(tmp_path):
    """What is mixed with a bad example is bad as well, but only that example causes it by itself."""
    changes = [{"name": "affine", "degrees": 10.0}, {"name": "crop", "pad": 1}, {"name": "mixup", "alpha": 1.0}]
    bench = Bench({"data": {"augment": changes}, "run": {"steps": 5, "eval_every": 5}})
    bench.train(tmp_path, stream=OneBad(bench, {3, 4}))
    box = read_box(boxes(tmp_path)[0])
    found = replay(box.folder)
    assert (found.finding.primitive, found.finding.layer) == ("input", "batch/inputs")
    assert (found.finding.examples, found.finding.batch_size) == (BAD, 240)
    assert "data/augment/mixing.py" in box.about["sources"]
    stream = Poisoned(bench, set())
    batch = [next(stream) for _ in range(4)][3]
    state = leaves.unpack(box.arrays, box.key_impls, bench.state)
    got = parts(bench.experiment, state, box._replace(batch=batch))
    losses = [part.loss_fn(part.params, part.batch, part.key) for part in got]
    state = state._replace(step=np.int32(box.step - 1))
    _, measured = bench.experiment.step(jax.device_put(state), batch, "lean")
    assert float(measured.loss) == pytest.approx(float(np.mean(losses)), rel=1e-6)
