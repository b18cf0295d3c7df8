"""Which examples a batch was made of: told of any batch behind any position, as the batch itself shows."""

import numpy as np
import pytest

from jaxprop.data import MixtureStream, Phase, Source, Stream, Workers
from jaxprop.data.drawn import Drawn


def source(length, names=None):
    return Source(length, lambda i: {"inputs": i.astype(np.float32)}, {}, "", names=names)


class Lengths:
    """Buckets of three lengths."""

    sizes = (1, 2, 3)

    def of(self):
        return np.arange(23) % 3

    def cut(self, batch, size):
        return batch


STREAMS = {
    "shuffled, padded": lambda: Stream(source(23), 5, seed=3),
    "in order": lambda: Stream(source(23), 5, seed=3, shuffle=False),
    "drop_last": lambda: Stream(source(23), 5, seed=3, drop_last=True),
    "buckets": lambda: Stream(source(23)._replace(buckets=Lengths()), 5, seed=3),
    "mixture": lambda: MixtureStream(
        source(23), (16, 7), [Phase(0, (1.0, 1.0)), Phase(6, (1.0, 3.0))], batch_size=5, seed=3
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_batch_behind_a_position_is_known(name):
    stream, batches, states = STREAMS[name](), [], []
    for _ in range(14):  # almost three epochs
        batches.append(next(stream)["inputs"].astype(int).tolist())
        states.append(stream.state())
    other = STREAMS[name]()  # which has drawn nothing
    for last, state in enumerate(states):
        for back in range(1, last + 2):
            for asked in (stream, other):
                drawn = asked.drawn(state, back)
                assert drawn.examples.tolist() == batches[last + 1 - back]
                assert (drawn.epoch, drawn.batch) == divmod(last + 1 - back, stream.batches_per_epoch)
    assert next(stream)["inputs"].tolist() == next(at(STREAMS[name](), 14))["inputs"].tolist()


def at(stream, count):
    for _ in range(count):
        stream.skip()
    return stream


def test_of_worker_processes_it_is_the_streams():
    pytest.importorskip("grain")
    workers = Workers(STREAMS["shuffled, padded"](), 1)
    for _ in range(3):
        workers._stream.skip()
    assert workers.drawn(workers.state(), 1).examples.tolist() == (
        at(STREAMS["shuffled, padded"](), 2).ahead(0)["inputs"].astype(int).tolist()
    )


def test_examples_have_names_where_the_source_knows_them():
    assert Drawn(0, 0, np.array([4, 2])).named(np.array([0, 1])) == ["example 4", "example 2"]
    stream = Stream(source(9, lambda i: [f"a.csv:{n + 2}" for n in i.tolist()]), 3, seed=0, shuffle=False)
    next(stream)
    assert stream.drawn(stream.state(), 1).named(np.array([2])) == ["a.csv:4"]
