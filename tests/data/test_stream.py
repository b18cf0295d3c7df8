"""Streams: epochs are permutations, states resume at the exact next batch, evaluation sees all once."""

import itertools
import json

import numpy as np
import pytest

from jaxprop.data.splits import subset
from jaxprop.data.stream import Stream, one_pass
from jaxprop.errors import DataError
from jaxprop.types import Buckets, Source


def counting(length, fingerprint="f00d"):
    """Examples that are their own index, so that a batch shows which examples it holds."""
    content = np.arange(length, dtype=np.int32)
    return Source(length, lambda indices: {"inputs": content[indices]}, {}, fingerprint)


def take(stream, count):
    return list(itertools.islice(stream, count))


def real(batches):
    """The examples of weight 1, in order."""
    return np.concatenate([batch["inputs"][batch["weight"] == 1] for batch in batches])


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


SIZES = [(1, 1), (1, 4), (10, 5), (10, 3), (10, 10), (10, 64), (97, 16)]


@pytest.mark.parametrize(("length", "batch_size"), SIZES)
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_holds_every_example_once(length, batch_size, shuffle):
    stream = Stream(counting(length), batch_size, seed=5, shuffle=shuffle)
    orders = []
    for epoch in range(3):
        assert (stream.epoch, stream.position) == (epoch, 0)
        batches = take(stream, stream.batches_per_epoch)
        assert all(batch["inputs"].shape == batch["weight"].shape == (batch_size,) for batch in batches)
        assert all(batch["weight"].dtype == np.float32 for batch in batches)
        orders.append(real(batches))
        assert np.array_equal(np.sort(orders[-1]), np.arange(length))
    if not shuffle:
        assert all(np.array_equal(order, np.arange(length)) for order in orders)
    elif length > 20:
        assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize(("length", "batch_size"), SIZES)
def test_padding_repeats_the_batchs_own_examples_with_weight_zero(length, batch_size):
    stream = Stream(counting(length), batch_size, seed=5)
    *full, last = take(stream, stream.batches_per_epoch)
    assert all((batch["weight"] == 1).all() for batch in full)
    remainder = length - len(full) * batch_size
    assert last["weight"].tolist() == [1.0] * remainder + [0.0] * (batch_size - remainder)
    assert np.array_equal(last["inputs"], np.resize(last["inputs"][:remainder], batch_size))


def test_drop_last_leaves_the_partial_batch_out_but_other_examples_each_epoch():
    stream = Stream(counting(10), 3, seed=5, drop_last=True)
    assert stream.batches_per_epoch == 3
    left_out = set()
    for _ in range(8):
        batches = take(stream, 3)
        assert all((batch["weight"] == 1).all() for batch in batches)
        seen = set(real(batches).tolist())
        assert len(seen) == 9
        left_out |= set(range(10)) - seen
    assert len(left_out) > 1
    assert stream.epoch == 8


def test_drop_last_that_drops_everything_is_an_error():
    with pytest.raises(DataError, match=r"batch of 64 .* 10 examples.*data\.batch_size to at most 10"):
        Stream(counting(10), 64, seed=0, drop_last=True)


@pytest.mark.parametrize("settings", [{}, {"drop_last": True}, {"shuffle": False}])
@pytest.mark.parametrize("stop", range(12))
def test_a_restored_stream_continues_with_the_exact_next_batch(stop, settings):
    uninterrupted = take(Stream(counting(10), 3, seed=5, **settings), 20)
    stopped = Stream(counting(10), 3, seed=5, **settings)
    take(stopped, stop)
    saved = json.loads(json.dumps(stopped.state()))
    resumed = Stream(counting(10), 3, seed=5, **settings)
    take(resumed, 2)
    resumed.restore(saved)
    assert resumed.state() == stopped.state()
    assert_same(take(resumed, 20 - stop), uninterrupted[stop:])
    started = Stream(counting(10), 3, seed=5, start=stop, **settings)
    assert_same(take(started, 20 - stop), uninterrupted[stop:])


def test_a_state_is_a_snapshot_and_asking_for_it_changes_nothing():
    stream = Stream(counting(10), 3, seed=5)
    before = stream.state()
    batches = take(stream, 3)
    assert before["position"] == 0
    assert_same(batches, take(Stream(counting(10), 3, seed=5), 3))


def test_the_order_depends_on_the_seed_and_the_epoch_only():
    first = real(take(Stream(counting(97), 16, seed=0), 7))
    assert np.array_equal(real(take(Stream(counting(97), 5, seed=0), 20)), first)
    assert not np.array_equal(real(take(Stream(counting(97), 16, seed=1), 7)), first)


def test_batches_do_not_share_memory_with_each_other_or_the_data():
    stream = Stream(counting(4), 4, seed=0, shuffle=False)
    first = next(stream)
    first["inputs"][:] = -1
    first["weight"][:] = -1
    second = next(stream)
    assert second["inputs"].tolist() == [0, 1, 2, 3]
    assert second["weight"].tolist() == [1.0] * 4


def test_a_failing_read_can_be_tried_again():
    content = counting(6)
    calls = itertools.count()

    def flaky(indices):
        if next(calls) == 1:
            raise OSError("gone for a moment")
        return content.take(indices)

    stream = Stream(content._replace(take=flaky), 2, seed=0, shuffle=False)
    next(stream)
    with pytest.raises(OSError, match="moment"):
        next(stream)
    assert next(stream)["inputs"].tolist() == [2, 3]


BASE = {"length": 10, "batch_size": 3, "seed": 5, "shuffle": True, "drop_last": False, "fingerprint": "f00d"}


def stream_of(length, fingerprint, batch_size, seed, **settings):
    return Stream(counting(length, fingerprint), batch_size, seed, **settings)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("seed", 6),
        ("batch_size", 4),
        ("length", 11),
        ("shuffle", False),
        ("drop_last", True),
        ("fingerprint", "beef"),
    ],
)
def test_a_state_of_another_stream_is_refused_with_both_values(name, other):
    saved = stream_of(**(BASE | {name: other})).state()
    stream = stream_of(**BASE)
    before = stream.state()
    with pytest.raises(DataError) as caught:
        stream.restore(saved)
    assert f"{name} is {BASE[name]!r}, saved {other!r}" in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert stream.state() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"position": 4}, r"position in 0\.\.3, got epoch 0, position 4"),
        ({"position": -1}, "position -1"),
        ({"epoch": 1.5}, "epoch 1.5"),
        ({"epoch": True}, "epoch True"),
        ({"epoch": "2"}, "epoch '2'"),
        ({"epoch": None}, "epoch None"),
    ],
)
def test_a_damaged_state_is_refused(damage, message):
    stream = stream_of(**BASE)
    with pytest.raises(DataError, match=message):
        stream.restore(stream.state() | damage)


def test_a_state_that_lacks_something_is_refused_by_name():
    stream = stream_of(**BASE)
    state = stream.state()
    del state["epoch"], state["seed"]
    with pytest.raises(DataError, match="has no epoch, seed"):
        stream.restore(state)


@pytest.mark.parametrize(("length", "batch_size"), SIZES)
def test_an_evaluation_sees_every_example_exactly_once_and_in_order(length, batch_size):
    batches = list(one_pass(counting(length), batch_size))
    assert len(batches) == -(-length // batch_size)
    assert all(batch["inputs"].shape == batch["weight"].shape == (batch_size,) for batch in batches)
    assert np.array_equal(real(batches), np.arange(length))


@pytest.mark.parametrize(("limit", "examples"), [(1, 3), (3, 9), (4, 10), (5, 10), (None, 10)])
def test_an_evaluation_can_be_limited(limit, examples):
    batches = list(one_pass(counting(10), 3, limit))
    assert np.array_equal(real(batches), np.arange(examples))


def test_a_source_that_raises_stop_iteration_does_not_pass_for_the_end():
    def take(indices):
        raise StopIteration

    source = counting(10)._replace(take=take)
    for batches in (Stream(source, 3, seed=0, shuffle=False), one_pass(source, 3)):
        with pytest.raises(DataError, match=r"no examples 0\.\.2 although its length is 10: its take raised"):
            next(batches)


def test_a_source_that_gives_fewer_examples_than_asked_for():
    source = counting(10)._replace(take=lambda indices: {"inputs": indices[:2]})
    with pytest.raises(DataError, match="asked for 3 examples and gave 2 of 'inputs'"):
        next(Stream(source, 3, seed=0))


# -- buckets --------------------------------------------------------------------------------------


def ragged(sizes, length=None):
    """Examples that are their own index, repeated as often as they are long; padded with -1."""
    sizes = np.asarray(sizes)
    widths = tuple(sorted(set(sizes.tolist())))

    def take(indices):
        held = np.arange(widths[-1]) < sizes[indices][:, None]
        return {"inputs": np.where(held, indices[:, None], -1), "labels": indices}

    places = np.searchsorted(widths, sizes)
    buckets = Buckets(widths, lambda: places, lambda b, size: b | {"inputs": b["inputs"][:, :size]})
    return Source(len(sizes), take, {}, "f00d", buckets=buckets)


LENGTHS = [4, 8, 16, 4, 4, 8, 8, 4, 16, 8, 4]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 11, 20])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_of_buckets_hold_every_example_once_and_whole(batch_size, drop_last):
    if drop_last and batch_size == 20:
        return
    stream = Stream(ragged(LENGTHS), batch_size, seed=3, drop_last=drop_last)
    assert stream.shapes == 3
    for _ in range(3):
        batches = take(stream, stream.batches_per_epoch)
        seen = np.concatenate([batch["labels"][batch["weight"] == 1] for batch in batches])
        assert len(set(seen.tolist())) == len(seen)
        assert len(seen) == len(LENGTHS) if not drop_last else len(LENGTHS) // batch_size * batch_size
        for batch in batches:
            longest = max(LENGTHS[i] for i in batch["labels"])
            assert batch["inputs"].shape == (batch_size, longest)
            for row, i in zip(batch["inputs"], batch["labels"], strict=True):
                assert row.tolist() == [i] * LENGTHS[i] + [-1] * (longest - LENGTHS[i])


def test_buckets_save_padding_and_come_in_random_order():
    sizes = np.resize([4, 8, 16], 600)
    stream = Stream(ragged(sizes), 10, seed=0)
    widths = [batch["inputs"].shape[1] for batch in take(stream, 60)]
    assert sum(widths) * 10 == sizes.sum()
    assert widths != sorted(widths)
    assert widths != [batch["inputs"].shape[1] for batch in take(stream, 60)]


@pytest.mark.parametrize("stop", [0, 2, 5, 9])
def test_a_stream_of_buckets_goes_on_with_the_exact_next_batch(stop):
    whole = take(Stream(ragged(LENGTHS), 3, seed=5), 14)
    stopped = Stream(ragged(LENGTHS), 3, seed=5)
    take(stopped, stop)
    resumed = Stream(ragged(LENGTHS), 3, seed=5)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert_same(take(resumed, 14 - stop), whole[stop:])


def test_without_shuffling_there_are_no_buckets():
    stream = Stream(ragged(LENGTHS), 3, seed=5, shuffle=False)
    assert stream.shapes == 1
    assert {batch["inputs"].shape for batch in take(stream, 4)} == {(3, 16)}


def test_a_part_of_a_source_keeps_its_buckets():
    part = subset(ragged(LENGTHS), np.array([2, 0, 3]))
    assert part.buckets.of().tolist() == [2, 0, 0]
