"""Options of the compiler that make programs faster, where it takes them. Pure."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

# On a CPU, jaxlib 0.10 and 0.12 give convolutions to the library YNNPACK, which computes many of them on one core. With
# its kernels for products and sums alone, convolutions are Eigen's: 1.2 to 9.2 times as fast on two cores.
OPTIONS: dict[str, dict[str, str]] = {
    "cpu": {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE",
    }
}


def fast_options(mesh: Mesh | None = None) -> dict[str, Any]:
    """Returns compiler options for steps, as `jax.jit(compiler_options=...)` takes them.

    Args:
      mesh: the devices; by default the default one.

    Returns:
      The options; none where the devices' platform has none, or where its compiler does not know them.

    Example:
      >>> set(fast_options()) <= {"xla_cpu_experimental_ynn_fusion_type"}
      True
    """
    return dict(_accepted(jax.default_backend() if mesh is None else mesh.devices.flat[0].platform))


@cache
def _accepted(platform: str) -> dict[str, Any]:
    options = OPTIONS.get(platform, {})
    if not options:
        return {}
    try:
        with jax.default_device(jax.local_devices(backend=platform)[0]):
            jax.jit(lambda x: x, compiler_options=options).lower(jax.ShapeDtypeStruct((), jnp.float32)).compile()
    except (RuntimeError, ValueError):  # another version of the compiler
        return {}
    return options
