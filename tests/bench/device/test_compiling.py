"""`bench/device/compiling.py`: the reference program, cold and warm."""

import jax
import pytest

from jaxprop.bench.device import compiling

DEVICE = jax.devices()[0]


@pytest.fixture
def compilations():
    """Names of the compile events of XLA, and of hits in the cache."""
    seen = []
    listen = lambda event, *_, **__: seen.append(event)  # noqa: E731
    jax.monitoring.register_event_listener(listen)
    yield seen
    jax.monitoring.unregister_event_listener(listen)


def test_the_warm_one_comes_out_of_the_cache_and_the_cold_one_does_not(compilations):
    cold, warm = (job.prepare() for job in compiling.jobs(DEVICE))
    for ready, hits in ((cold, 0), (warm, 1)):
        compilations.clear()
        assert ready.check(ready.call(0)) == ""
        assert sum(event.endswith("/cache_hits") for event in compilations) == hits


def test_the_settings_are_as_before():
    names = [*compiling.CACHING, "jax_compilation_cache_dir"]
    before = [getattr(jax.config, name) for name in names]
    with pytest.raises(RuntimeError), compiling.cache_in(None):
        raise RuntimeError
    assert [getattr(jax.config, name) for name in names] == before
