import pytest

from jaxprop.checkpoint import peers


def test_one_process_has_nobody_to_ask(monkeypatch):
    monkeypatch.setattr(peers, "multihost_utils", None)
    assert peers.is_first()
    assert peers.of_first(-1) == -1
    assert peers.all_of(True)
    assert not peers.all_of(False)
    assert len({peers.shared_token() for _ in range(20)}) == 20


class Two:
    """As in the second of two processes, of which the first has another value."""

    def __init__(self, first):
        self.first = first

    def broadcast_one_to_all(self, words):
        return self.first.pop() if self.first else words

    def process_allgather(self, holds):
        return [holds, self.first]


@pytest.mark.parametrize("value", [0, -1, 7, 2**32 + 5, 2**61 + 3])
def test_numbers_keep_their_64_bits(monkeypatch, value):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(peers, "multihost_utils", Two([]))
    assert peers.of_first(value) == value


def test_one_process_that_does_not_is_enough(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(peers, "multihost_utils", Two(False))
    assert not peers.all_of(True)
    monkeypatch.setattr(peers, "multihost_utils", Two(True))
    assert peers.all_of(True)
