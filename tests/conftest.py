"""Every test runs on CPU with 8 host devices visible, strict dtype promotion and warnings as errors."""

import importlib.metadata
import os
import signal
import sys

# Nearly all the time of a test is XLA compiling a tiny program, so compile quickly instead of well: a fifth of the
# CPU time for a train step. The flags come first, so that XLA_FLAGS from outside has the last word.
os.environ["JAX_PLATFORMS"] = "cpu"
# The user's folder of compiled programs is left alone; the tests of the folder name one of their own.
os.environ["JAXPROP_COMPILE_CACHE"] = "off"
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        # On two cores, splitting each program for many threads costs more than it gains.
        "--xla_cpu_parallel_codegen_split_count=1",
        # On a busy machine one of the 8 devices may be late; after 40 s, XLA would end the process.
        "--xla_cpu_collective_call_terminate_timeout_seconds=110",
        # jaxlib after 0.10 no longer knows this flag, and aborts on it
        "--xla_cpu_use_fusion_emitters=false" * importlib.metadata.version("jaxlib").startswith("0.10."),
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
    ]
)

# Hundreds of tests start processes, each of which would compile 400 modules again where no bytecode may be written.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import jax
import jax.monitoring
import pytest
from hypothesis import settings

# The same examples in every run: a failure must not come and go.
settings.register_profile("jaxprop", deadline=None, derandomize=True, database=None)
settings.load_profile("jaxprop")

sys.dont_write_bytecode = False

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
    """Float64 for the length of one test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def default_signals():
    """SIGINT, SIGTERM and SIGHUP do for one test, and for the processes it starts, what they do at a terminal.

    A shell starts a background job with SIGINT ignored, nohup any job with SIGHUP, and a child keeps what its parent
    ignores.
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python


_compiled: list[float] = []


def _listen(event: str, seconds: float, **_: object) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_listen)


@pytest.fixture
def compilations():
    """Returns a function that tells how many programs XLA has compiled since the test began."""
    start = len(_compiled)
    return lambda: len(_compiled) - start
