"""The version, in a module of its own so that anyone may read it, and those of what its numbers depend on."""

import functools

__version__ = "0.1.0"
VERSIONED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a run's numbers depend on.

    Example:
      >>> sorted(versions())
      ['flax', 'jax', 'jaxlib', 'jaxprop', 'numpy', 'optax', 'orbax-checkpoint', 'python']
    """
    import platform

    known = {"python": platform.python_version(), "jaxprop": __version__}
    return known | _installed()


@functools.cache
def _installed() -> dict[str, str]:
    """Looked up once, since it takes milliseconds, and a checkpoint asks for it while training waits."""
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in VERSIONED}
