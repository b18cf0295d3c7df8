"""What a failing step was given, on disk and back."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxprop.errors import RunFolderError
from jaxprop.run import blackbox
from jaxprop.run.blackbox import Recorder, boxes, changed_sources, read_box
from jaxprop.sinks import Sink
from tests.benches import Bench, Poisoned, with_config


@pytest.fixture(scope="module")
def bench():
    return Bench({})


@pytest.fixture(scope="module")
def failed(bench, tmp_path_factory):
    """A run whose batches 3, 4 and 8 are poisoned: steps 4, 5 and 9."""
    folder = tmp_path_factory.mktemp("failed")
    bench.train(folder, stream=Poisoned(bench, {3, 4, 8}))
    return folder


# -- what is written ----------------------------------------------------------------------------


def test_the_first_of_each_row_of_failing_steps_is_kept(failed):
    assert [path.name for path in boxes(failed)] == ["4", "9"]
    assert all((path / name).is_file() for path in boxes(failed) for name in blackbox.FILES)
    assert not list((failed / "blackbox").glob(".*"))


def test_the_batch_is_the_failing_steps(failed, bench):
    stream = Poisoned(bench, set())
    expected = [next(stream) for _ in range(4)][3]
    box = read_box(boxes(failed)[0])
    assert np.isnan(box.batch["inputs"]).all()
    np.testing.assert_array_equal(box.batch["labels"], expected["labels"])
    np.testing.assert_array_equal(box.batch["weight"], expected["weight"])


def test_a_state_that_later_steps_have_left_alone_is_the_very_one(failed):
    """Step 5 is skipped as well, so what step 6 begins with is what step 4 began with."""
    box = read_box(boxes(failed)[0])
    assert box.updates == 0
    assert read_box(boxes(failed)[1]).updates == 1  # step 10 had been taken when step 9 was read


def test_the_records_before_it_are_in_the_box(failed):
    records = read_box(boxes(failed)[0]).about["records"]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert records[-1]["loss"] is None
    assert (records[-1]["skipped"], records[-2]["skipped"]) == (1.0, 0.0)
    assert np.isfinite(records[-2]["grad_norm"])


def test_a_run_keeps_no_more_than_it_is_told_to(bench, tmp_path):
    config = with_config(bench, health={"blackboxes": 1})
    bench.train(tmp_path, stream=Poisoned(bench, {3, 8}), config=config)
    assert [path.name for path in boxes(tmp_path)] == ["4"]


def test_none_is_kept_where_none_is_wanted(bench, tmp_path):
    config = with_config(bench, health={"blackboxes": 0})
    bench.train(tmp_path, stream=Poisoned(bench, {3}), config=config)
    assert not (tmp_path / "blackbox").exists()


def test_a_healthy_run_has_none(bench, tmp_path):
    bench.train(tmp_path)
    assert not (tmp_path / "blackbox").exists()


def test_of_several_steps_a_call_the_failing_one_is_kept(tmp_path):
    bench = Bench({"run": {"steps": 12, "log_every": 4, "eval_every": 4, "steps_per_call": 4}})
    bench.train(tmp_path, stream=Poisoned(bench, {5}))
    (folder,) = boxes(tmp_path)
    box = read_box(folder)
    assert folder.name == "6"
    assert box.batch["inputs"].shape[0] == 240
    assert np.isnan(box.batch["inputs"]).all()


def test_the_search_for_a_loss_scale_is_no_failure(tmp_path):
    bench = Bench({"precision": {"policy": "float16", "loss_scale": 2.0**20}, "run": {"steps": 10}})
    done = bench.train(tmp_path, stream=Poisoned(bench, {7}))
    assert any(record.get("skips") for record in done.metrics)
    assert [path.name for path in boxes(tmp_path)] == ["8"]


def test_a_box_that_cannot_be_written_is_told_and_the_run_goes_on(bench, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blackbox, "save_file", full)
    notes = []
    done = bench.train(tmp_path, stream=Poisoned(bench, {3}), sink=Sink(note=notes.append))
    assert done.status == "completed"
    (note,) = [note for note in notes if "black box" in note]
    assert note == "step 4 was not finite; its black box cannot be written (No space left on device)"
    assert boxes(tmp_path) == []
    assert not list((tmp_path / "blackbox").iterdir())


def test_a_step_whose_batch_is_no_longer_held_is_not_kept(bench, tmp_path):
    recorder = Recorder(tmp_path, bench.config)
    loop, _ = bench.loop(tmp_path, None)
    measurements = loop._experiment.step(loop.state, next(Poisoned(bench, {0})), "lean")[1].host()
    assert recorder.read(1, measurements, lambda: loop.state, 1) is None


# -- reading it back ----------------------------------------------------------------------------


@pytest.fixture
def copy(failed, tmp_path):
    return shutil.copytree(boxes(failed)[0], tmp_path / "4")


def test_a_box_of_another_format_is_refused(copy):
    about = json.loads((copy / "box.json").read_text())
    (copy / "box.json").write_text(json.dumps(about | {"format": 2, "jaxprop": "9.0"}))
    with pytest.raises(RunFolderError, match=r"was written by jaxprop 9\.0 in format 2, .* reads format 1"):
        read_box(copy)


@pytest.mark.parametrize("name", ["state.safetensors", "batch.safetensors", "config.yaml", "box.json"])
def test_a_box_with_a_file_missing_is_refused(copy, name):
    (copy / name).unlink()
    with pytest.raises(RunFolderError, match=f"not a whole black box: it has no {name}"):
        read_box(copy)


@pytest.mark.parametrize("name", ["state.safetensors", "batch.safetensors", "box.json"])
def test_a_truncated_box_is_refused(copy, name):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunFolderError, match="is damaged and cannot be replayed"):
        read_box(copy)


def test_sources_that_have_changed_are_known(copy):
    box = read_box(copy)
    assert changed_sources(box) == []
    assert "models/mlp.py" in box.about["sources"]
    box.about["sources"]["models/mlp.py"] = "0"
    assert changed_sources(box) == ["models/mlp.py"]


def test_the_state_has_every_leaf_to_the_bit(copy, bench):
    stored = load_file(copy / "state.safetensors")
    assert len(stored) == len([leaf for leaf in jax.tree.leaves(bench.state) if np.size(leaf)])
