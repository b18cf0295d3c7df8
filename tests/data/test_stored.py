"""Inputs that are kept as bytes: the same values to the bit, whether they widen on the host or within the step."""

import jax
import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.data.readers.images.open import standardization
from jaxprop.data.splits import subset
from jaxprop.data.stored import as_bytes, as_kept, standardized
from jaxprop.data.stream import one_pass
from jaxprop.run.compose import compose
from jaxprop.tools.gradcheck.configured import check_config
from jaxprop.types import Source

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 8, 8, 3), np.uint8)
LABELS = RNG.integers(0, 4, 40)


@pytest.fixture
def binaries(tmp_path):
    """A folder of CIFAR-10's layout, of larger images than ours."""
    rows = np.zeros((40, 1 + 3 * 32 * 32), np.uint8)
    rows[:, 0], rows[:, 1:] = LABELS, RNG.integers(0, 256, (40, 3 * 32 * 32), np.uint8)
    rows.tofile(tmp_path / "data_batch_1.bin")
    return {"name": "images", "train": str(tmp_path)}


@pytest.fixture
def arrays(tmp_path):
    np.savez(tmp_path / "train.npz", inputs=PIXELS, labels=LABELS)
    return {"name": "arrays", "train": str(tmp_path / "train.npz")}


def configured(section, **more):
    return build({
        "task": {"name": "classify"}, "data": section | {"batch_size": 8, "validation": 0.2},
        "model": {"name": "cnn", "channels": [4]}, "optimizer": {"name": "sgd", "lr": 0.1}, "run": {"steps": 3}, **more,
    })  # fmt: skip


@pytest.mark.parametrize("statistics", [([0.2, 0.4, 0.6], [0.5, 0.25, 0.0]), ([0.4914, 0.4822, 0.4465],) * 2])
def test_every_byte_widens_to_the_same_bits_in_a_compiled_program(statistics):
    centre, factor = standardization(*statistics)
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None, None], 3, 3)
    stored = as_bytes(lambda i: {"inputs": pixels[i]}, lambda i: None, centre, factor)
    wide = jax.jit(stored.widen)({"inputs": pixels})["inputs"]
    np.testing.assert_array_equal(np.asarray(wide), standardized(pixels, centre, factor))
    assert wide.dtype == np.float32


@pytest.mark.parametrize("kind", ["arrays", "binaries"])
def test_a_run_is_given_bytes_and_takes_the_steps_of_floats_to_the_bit(kind, request):
    config = configured(request.getfixturevalue(kind))
    experiment = compose(config)
    plain = {name: source._replace(stored=None) for name, source in experiment.sources.items()}
    widths, losses = [], []
    for one in (experiment, compose(config, plain)):
        state = one.init(0)
        for _ in range(3):
            batch = next(one.stream)
            widths.append(batch["inputs"].dtype.name)
            state, measurements = one.step(state, batch, "full")
            losses.append(np.asarray(measurements.packed))
    assert widths == ["uint8"] * 3 + ["float32"] * 3
    np.testing.assert_array_equal(losses[:3], losses[3:])


def test_an_evaluation_is_given_floats(arrays):
    source = compose(configured(arrays)).validation
    assert next(one_pass(source, 4))["inputs"].dtype == np.float32


@pytest.mark.parametrize("what", ["standardized by float64 statistics", "of several sources"])
def test_what_no_compiled_program_does_to_the_bit_is_done_on_the_host(arrays, what):
    section = arrays | {"standardize": True}
    if what == "of several sources":
        section = {"name": "mixture", "sources": [arrays, arrays]}
    assert next(compose(configured(section)).stream)["inputs"].dtype == np.float32


def take(indices):
    return {"inputs": PIXELS[indices].astype(np.float32)}


WHOLE = Source(40, take, {}, "", stored=as_bytes(lambda indices: {"inputs": PIXELS[indices]}, take))


def test_a_part_of_a_source_is_kept_as_the_whole_is():
    part = as_kept(subset(WHOLE, np.array([7, 3, 5])))
    np.testing.assert_array_equal(part.take(np.array([2, 0]))["inputs"], PIXELS[[5, 7]])


def test_a_source_that_is_taken_in_another_way_is_taken_in_that_way():
    """A reader of a user's own may replace `take` of a source of ours and know nothing of bytes."""
    assert as_kept(WHOLE).take(np.arange(2))["inputs"].dtype == np.uint8
    halves = WHOLE._replace(take=lambda indices: {"inputs": take(indices)["inputs"] / 2})
    np.testing.assert_array_equal(as_kept(halves).take(np.arange(2))["inputs"], PIXELS[:2] / np.float32(2))


def test_gradients_of_bytes_are_checked_as_of_floats(binaries):
    assert check_config(configured(binaries), examples=2, entries=3).ok
