"""Standard input that stays open while a test writes to it."""

import os
from types import SimpleNamespace

import pytest


@pytest.fixture
def pipe(monkeypatch):
    """Standard input as a pipe: `pipe.write(bytes)` and `pipe.close()`."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "wb", buffering=0) as end:
        monkeypatch.setattr("sys.stdin", stdin)
        yield SimpleNamespace(write=end.write, close=end.close)
