"""Of `scripts/fuzz_config.py`: some of its trials, and what it takes for a failure."""

import gc
import importlib.util
from pathlib import Path

import pytest

from jaxprop.errors import ConfigError

TRIALS = 3000


@pytest.fixture(scope="module")
def fuzz():
    path = Path(__file__).parents[1] / "scripts" / "fuzz_config.py"
    spec = importlib.util.spec_from_file_location("fuzz_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(600)
def test_random_configurations_are_valid_or_refused_with_their_place(fuzz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maker, ends = fuzz.Maker(), set()
    gc.freeze()  # a collection of all that the tests before have left would count as a trial's own seconds
    try:
        for seed in range(TRIALS):
            ended, problem = fuzz.failure(maker.trial(seed), tmp_path / "config.yaml")
            assert problem is None, f"seed {seed}: {problem}"
            ends.add(ended)
    finally:
        gc.unfreeze()
    assert ends == {"valid", "refused"}


def test_a_seed_makes_one_trial(fuzz):
    assert fuzz.Maker().trial(7) == fuzz.Maker().trial(7) != fuzz.Maker().trial(8)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (ConfigError("model: what"), "does not say where"),
        (ConfigError([]), "0 problems"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_is_a_failure(fuzz, tmp_path, monkeypatch, error, problem):
    def load(*_):
        raise error

    monkeypatch.setattr(fuzz, "load", load)
    assert problem in fuzz.failure(fuzz.Trial(b"a: 1\n", []), tmp_path / "config.yaml")[1]


def test_slowness_and_growth_are_failures(fuzz, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "load", lambda *_: None)
    monkeypatch.setattr(fuzz, "SECONDS", -1.0)
    assert "took" in fuzz.failure(fuzz.Trial(b"a: 1\n", []), tmp_path / "config.yaml")[1]
    monkeypatch.setattr(fuzz, "SECONDS", 60.0)
    monkeypatch.setattr(fuzz, "MEGABYTES", -1e6)
    assert "grew" in fuzz.failure(fuzz.Trial(b"a: 1\n", []), tmp_path / "config.yaml")[1]
