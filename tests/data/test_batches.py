"""Anyone's batches as a stream: taken, set back, saved and restored."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.data.batches import DRAWN_AGAIN, EXACT, Batches, as_arrays, as_stream
from jaxprop.data.stream import Stream
from jaxprop.errors import DataError, UsageError
from jaxprop.types import Source


class Counting:
    """An iterator with a state of its own, as Grain's have."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        return {"x": [float(self.at)]}

    def get_state(self):
        return b"%d" % self.at

    def set_state(self, state):
        self.at = int(state)


class Loader:
    """A loader with a state of its own, as torchdata's have."""

    def __init__(self):
        self.given, self.start = 0, 0

    def __iter__(self):
        self.given, self.start = self.start, 0
        while self.given < 5:
            self.given += 1
            yield [float(self.given)]

    def __len__(self):
        return 5

    def state_dict(self):
        return {"given": self.given}

    def load_state_dict(self, state):
        self.start = state["given"]


def _first(batch):
    return batch["x"] if isinstance(batch, dict) else batch


KINDS = {
    "a list": lambda: [{"x": [float(i)]} for i in range(1, 6)],
    "a generator": lambda: ({"x": [float(i)]} for i in range(1, 100)),
    "an iterator with a state": Counting,
    "a loader with a state": Loader,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_position_goes_on_with_the_next_batch_in_another_process(kind):
    stream = Batches(KINDS[kind](), depth=3)
    before = take(stream, 7 if kind != "a generator" else 4)
    state = stream.state()
    expected = take(stream, 3)
    other = Batches(KINDS[kind](), depth=3)
    other.restore(state)
    assert take(other, 3) == expected
    assert before[:3] == [1.0, 2.0, 3.0]


def take(stream, count):
    return [float(np.ravel(_first(next(stream)))[0]) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_drawn_ahead_is_given_again(kind):
    stream = Batches(KINDS[kind](), depth=4)
    take(stream, 2)
    state = stream.state()
    ahead = take(stream, 3)
    stream.restore(state)
    assert take(stream, 3) == ahead
    after = take(stream, 1)
    stream.restore(state)
    first, middle = take(stream, 1), stream.state()
    assert first == ahead[:1]
    other = Batches(KINDS[kind](), depth=3)
    other.restore(middle)  # saved while some of what was drawn was still to be given again
    assert take(other, 3) == ahead[1:] + after


def test_a_generator_cannot_be_set_back_beyond_what_is_held():
    stream = Batches(({"x": [float(i)]} for i in range(50)), depth=2)
    start = stream.state()
    take(stream, 9)
    with pytest.raises(DataError, match=r"cannot be set back by 9; give fit a jaxprop.data.Stream"):
        stream.restore(start)


def test_the_end_of_the_only_pass_is_told():
    stream = Batches(iter([{"x": [1.0]}]), depth=2)
    take(stream, 1)
    with pytest.raises(DataError, match="the batches ended after 1; give fit fewer steps, or an iterable that begins"):
        next(stream)
    with pytest.raises(DataError, match="the batches ended after 0"):
        next(Batches([], depth=1))


@pytest.mark.parametrize(
    ("kind", "promise", "epoch"),
    [
        ("a list", DRAWN_AGAIN, 5),
        ("a generator", DRAWN_AGAIN, None),
        ("an iterator with a state", EXACT, None),
        ("a loader with a state", EXACT, 5),
    ],
)
def test_what_a_resume_can_promise(kind, promise, epoch):
    stream = Batches(KINDS[kind](), depth=1)
    assert (stream.promise, stream.batches_per_epoch) == (promise, epoch)
    assert take(stream, 1) == [1.0]  # asking has taken none


def test_a_peek_takes_nothing():
    stream = Batches(Counting(), depth=1)
    assert float(stream.peek()["x"][0]) == 1.0
    assert stream.state()["drawn"] == 0
    assert take(stream, 2) == [1.0, 2.0]


def test_a_stream_stays_as_it_is():
    stream = Stream(Source(4, lambda i: {"inputs": i}, {}, ""), batch_size=2, seed=0)
    assert as_stream(stream, depth=1) is stream


def test_tensors_and_lists_become_arrays_and_arrays_of_jax_stay():
    class Tensor:
        def detach(self):
            return self

        def cpu(self):
            return self

        def __array__(self, dtype=None, copy=None):
            return np.ones(2, np.float32)

    kept = jnp.ones(3)
    batch = as_arrays([Tensor(), {"labels": [1, 2], "kept": kept}, 3.0])
    assert batch[0].dtype == np.float32
    assert batch[1]["labels"].tolist() == [1, 2]
    assert batch[1]["kept"] is kept
    assert batch[2].shape == ()


@pytest.mark.parametrize("bad", [{"x": np.array(["a"])}, {"x": np.array([None])}])
def test_what_is_no_number_is_told(bad):
    with pytest.raises(DataError, match="which no step can take; leave it out, or turn it into numbers"):
        as_arrays(bad)


def test_what_cannot_be_iterated_is_told():
    with pytest.raises(UsageError, match=r"expected an iterable of batches, got int; give a jaxprop.data.Stream"):
        Batches(3, depth=1)


def test_a_single_batch_is_not_taken_for_a_sequence_of_its_keys():
    with pytest.raises(UsageError, match=r"got a single mapping; give \[batch\] .* or a jaxprop.data.Stream"):
        Batches({"x": np.zeros(3)}, depth=1)


def test_a_state_that_is_not_json_is_told():
    class Odd(Counting):
        def get_state(self):
            return {1, 2}

    stream = Batches(Odd(), depth=1)
    next(stream)
    with pytest.raises(UsageError, match="is not JSON"):
        stream.state()
