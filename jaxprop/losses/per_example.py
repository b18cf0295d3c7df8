"""What a loss returns: one value and one weight an example."""

from __future__ import annotations

import jax

PerExample = tuple[jax.Array, jax.Array]  # loss [B], weight [B]
