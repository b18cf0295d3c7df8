"""Mixtures: shares by weights, epochs of each source, and resuming at the exact next batch."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprop.data.mixture import MixtureStream, Phase, shares
from jaxprop.errors import DataError
from jaxprop.types import Source

LENGTHS = (7, 20, 3)


def source(fingerprint="f00d"):
    content = np.arange(sum(LENGTHS), dtype=np.int32)
    return Source(len(content), lambda indices: {"inputs": content[indices]}, {}, fingerprint)


def stream(weights=(1.0, 2.0, 1.0), batch_size=8, seed=3, phases=None, **settings):
    return MixtureStream(source(), LENGTHS, phases or [Phase(0, weights)], batch_size, seed, **settings)


def taken(stream, count):
    return [next(stream)["inputs"] for _ in range(count)]


def of(batch):
    """Which source each example is of."""
    return np.searchsorted(np.cumsum(LENGTHS), batch, side="right")


@settings(max_examples=200)
@given(
    st.integers(0, 2**31), st.integers(0, 10**6), st.integers(1, 300),
    st.lists(st.floats(0, 100), min_size=1, max_size=6).filter(lambda w: sum(w) > 1e-3),
)  # fmt: skip
def test_shares_add_up_and_are_within_one_of_their_weight(seed, step, batch_size, weights):
    found = shares(seed, step, batch_size, weights)
    assert found.sum() == batch_size
    assert (found >= 0).all()
    exact = batch_size * np.array(weights) / sum(weights)
    assert (np.abs(found - exact) < 1 + 1e-9).all()
    assert (found[exact == 0] == 0).all()


def test_shares_are_in_the_mean_what_the_weights_say():
    total = sum(shares(0, step, 10, [0.7, 0.25, 0.05]) for step in range(4000))
    np.testing.assert_allclose(total / total.sum(), [0.7, 0.25, 0.05], atol=0.002)


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_source_has_its_own_epochs_in_which_every_example_occurs_once(shuffle):
    batches = np.concatenate(taken(stream(shuffle=shuffle), 60))
    for k, length in enumerate(LENGTHS):
        # The order inside a batch is mixed, so epochs are compared as sets where they end with a batch only.
        drawn = batches[of(batches) == k]
        counts = np.bincount(drawn - sum(LENGTHS[:k]), minlength=length)
        assert counts.max() - counts.min() <= 1


def test_batches_are_mixed_and_of_full_weight():
    batch = next(stream())
    assert batch["weight"].tolist() == [1.0] * 8
    assert len({tuple(of(b)) for b in taken(stream(), 10)}) > 3


def test_weights_change_by_step():
    batches = taken(stream(phases=[Phase(0, (1.0, 0.0, 0.0)), Phase(3, (0.0, 1.0, 1.0))]), 6)
    assert all((of(batch) == 0).all() for batch in batches[:3])
    assert all((of(batch) > 0).all() for batch in batches[3:])


@pytest.mark.parametrize("stop", [0, 1, 5, 13])
def test_a_restored_stream_goes_on_with_the_exact_next_batch(stop):
    phases = [Phase(0, (1.0, 1.0, 1.0)), Phase(4, (5.0, 1.0, 1.0))]
    uninterrupted = taken(stream(phases=phases), 20)
    stopped = stream(phases=phases)
    taken(stopped, stop)
    resumed = stream(phases=phases)
    taken(resumed, 2)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert resumed.state() == stopped.state()
    assert np.array_equal(taken(resumed, 20 - stop), uninterrupted[stop:])


def test_the_weights_may_change_after_a_checkpoint():
    stopped = stream(weights=(1.0, 1.0, 1.0))
    before = np.concatenate(taken(stopped, 5))
    resumed = stream(weights=(0.0, 1.0, 0.0))
    resumed.restore(stopped.state())
    after = np.concatenate(taken(resumed, 2))
    assert (of(after) == 1).all()
    # What was drawn of the source counts on: together no example comes twice before all have come.
    both = np.concatenate([before[of(before) == 1], after])
    counts = np.bincount(both - LENGTHS[0], minlength=LENGTHS[1])
    assert counts.max() - counts.min() <= 1


def test_looking_ahead_shows_what_comes_and_moves_nothing():
    looking, plain = stream(), stream()
    expected = taken(plain, 9)
    for count in (4, 0, 8, 2):
        assert np.array_equal(looking.ahead(count)["inputs"], expected[count])
    assert np.array_equal(taken(looking, 9), expected)
    assert np.array_equal(looking.ahead(0)["inputs"], next(plain)["inputs"])


def test_epoch_and_position_count_all_examples():
    counted = stream()
    taken(counted, 5)
    assert (counted.batches_per_epoch, counted.epoch, counted.position) == (4, 1, 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seed": 4}, "seed is 3, saved 4"),
        ({"batch_size": 4}, "batch_size is 8, saved 4"),
        ({"lengths": [7, 20, 4]}, "lengths is"),
        ({"fingerprint": "beef"}, "fingerprint is"),
        ({"shuffle": False}, "shuffle is"),
        ({"drawn": [1, 2]}, "is damaged"),
        ({"drawn": [1, 2, 3]}, "is damaged"),
        ({"drawn": None}, "is damaged"),
        ({"step": -1}, "is damaged"),
        ({"step": True}, "is damaged"),
    ],
)
def test_a_state_of_another_stream_or_a_damaged_one_is_refused(change, why):
    saved = stream()
    taken(saved, 3)
    with pytest.raises(DataError, match=why):
        stream().restore(saved.state() | change)
    lacking = saved.state()
    del lacking["drawn"]
    with pytest.raises(DataError, match="has no drawn"):
        stream().restore(lacking)
