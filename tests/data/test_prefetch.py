"""Prefetching: the same batches and states as without it, errors passed on, and no thread left behind."""

import itertools
import threading
import time

import jax
import numpy as np
import pytest

from jaxprop.data.prefetch import Prefetch, prefetch
from jaxprop.data.stream import Stream
from jaxprop.errors import DataError
from jaxprop.types import Source


def make_stream(**settings):
    content = np.arange(10, dtype=np.int32)
    return Stream(Source(10, lambda i: {"inputs": content[i]}, {}, "f00d"), 3, seed=1, **settings)


def keep(batch):
    return batch


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_same(left, right):
    assert len(left) == len(right)
    for (a, a_state), (b, b_state) in zip(left, right, strict=True):
        assert a_state == b_state
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Every test here must end with no more threads than it began with."""
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "jaxprop-prefetch"]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


DEPTHS = [0, 1, 2, 7]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("group", [1, 2, [4, 4, 2], [1, 3]])
def test_prefetched_batches_and_states_are_the_streams_own(depth, group):
    sizes = [group] * 9 if isinstance(group, int) else group
    stream = make_stream()
    expected = []
    for size in sizes:
        batches = take(stream, size)
        stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
        expected.append((batches[0] if group == 1 else stacked, stream.state()))
    with prefetch(make_stream(), depth, keep, group) as batches:
        assert_same(take(batches, len(sizes)), expected)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_schedule_of_groups_ends_the_iterator_and_single_groups_are_stacked_too(depth):
    with prefetch(make_stream(), depth, keep, iter([2, 1])) as batches:
        shapes = [batch["inputs"].shape for batch, _ in batches]
        assert shapes == [(2, 3), (1, 3)]
        assert list(batches) == []


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("used", range(6))
def test_resuming_from_the_state_of_the_last_used_group_loses_and_repeats_nothing(depth, used):
    uninterrupted = take(prefetch(make_stream(), 0, keep), 12)
    state = make_stream().state()
    with prefetch(make_stream(), depth, keep) as batches:
        first = take(batches, used)
        if depth:
            time.sleep(0.002)  # let the thread run ahead of what is used
        state = first[-1][1] if first else state
    stream = make_stream()
    stream.restore(state)
    with prefetch(stream, depth, keep) as batches:
        assert_same(first + take(batches, 12 - used), uninterrupted)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_thread_prepares_depth_groups_ahead_and_no_more(depth):
    placed = []
    with prefetch(make_stream(), depth, placed.append) as batches:
        for used in range(4):
            wait_for(lambda used=used: len(placed) == used + depth)
            time.sleep(0.005)
            assert len(placed) == used + depth
            next(batches)


def test_depth_zero_reads_nothing_ahead_and_starts_no_thread():
    placed = []
    threads = threading.active_count()
    with prefetch(make_stream(), 0, placed.append) as batches:
        assert threading.active_count() == threads
        for used in range(3):
            assert len(placed) == used
            next(batches)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("where", ["place", "stream"])
def test_an_exception_comes_out_where_its_batch_would_have(depth, where):
    calls = itertools.count()

    def fail_third(batch):
        if next(calls) == 2:
            raise OSError("the disk is gone")
        return batch

    class Failing(Stream):
        def __next__(self):
            return fail_third(super().__next__())

    template = make_stream()
    stream = Failing(template._source, 3, seed=1) if where == "stream" else template
    with prefetch(stream, depth, fail_third if where == "place" else keep) as batches:
        assert len(take(batches, 2)) == 2
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)
        assert next(batches, "ended") == "ended"


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("used", [0, 1, 5])
def test_leaving_early_closes_and_a_closed_iterator_is_exhausted(depth, used):
    batches = prefetch(make_stream(), depth, keep)
    with batches:
        take(batches, used)
    batches.close()
    assert next(batches, "ended") == "ended"


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_exception_of_the_consumer_closes_too(depth):
    def consume():
        with prefetch(make_stream(), depth, keep) as batches:
            next(batches)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()


def test_closing_waits_for_the_batch_being_prepared():
    begun, finished = threading.Event(), []

    def slow(batch):
        begun.set()
        time.sleep(0.05)
        finished.append(batch)
        return batch

    with prefetch(make_stream(), 2, slow):
        begun.wait(10)
    count = len(finished)
    assert count >= 1
    time.sleep(0.1)
    assert len(finished) == count


def test_closing_at_any_moment_neither_hangs_nor_leaks():
    before = threading.active_count()
    for attempt in range(200):
        batches = prefetch(make_stream(), 1 + attempt % 3, keep)
        take(batches, attempt % 5)
        batches.close()
        assert threading.active_count() == before


def test_a_prefetch_that_is_dropped_ends_its_thread():
    batches = prefetch(make_stream(), 2, keep)
    next(batches)
    del batches  # the fixture looks for the thread


class Finite(Stream):
    """A stream of one epoch."""

    def __next__(self):
        if self.epoch == 1:
            raise StopIteration
        return super().__next__()


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_finite_stream_ends_the_iterator_with_its_last_short_group(depth):
    stream = Finite(make_stream()._source, 3, seed=1)
    with prefetch(stream, depth, keep, group=3) as batches:
        assert [batch["inputs"].shape for batch, _ in batches] == [(3, 3), (1, 3)]


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_stream_that_ends_within_a_call_is_an_error(depth):
    stream = Finite(make_stream()._source, 3, seed=1)
    with prefetch(stream, depth, keep, group=[3, 3]) as batches:
        next(batches)
        with pytest.raises(DataError, match="ended early: a call takes 3 batches, and only 1 were left"):
            next(batches)


@pytest.mark.parametrize("depth", [0, 2])
def test_batches_are_placed_on_the_device(depth):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    with prefetch(make_stream(), depth, lambda batch: jax.device_put(batch, sharding), group=2) as batches:
        placed, _ = next(batches)
    assert placed["inputs"].sharding == sharding
    assert placed["inputs"].shape == (2, 3)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("group", [0, -1, [2, 0]])
def test_a_group_without_batches_is_an_error(depth, group):
    with prefetch(make_stream(), depth, keep, group) as batches, pytest.raises(ValueError, match="1 batch or more"):
        take(batches, 3)


def test_a_negative_depth_is_an_error():
    with pytest.raises(ValueError, match="0 or more, got -1"):
        Prefetch(make_stream(), -1, keep)
