"""What a train step measures, how often, and how it guards itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jaxprop.errors import UsageError

DETAILS = ("lean", "rows", "full", "flush")
RARE = ("full", "flush")  # the details that hold everything, which a call has seldom
SPIKES = (None, "clip", "skip")


class Signals(NamedTuple):
    """What a train step measures, how often, and how it guards itself.

    Args:
      every: steps between records with the gradient norm of every layer.
      rare_every: steps between records that hold everything: norms of parameters and updates, `m.rare` and `m.taps`.
      flush_every: steps between measurements of what float16 would flush to zero, which take a backward pass in
        float32; used with a loss scale only.
      taps: measure tapped activations.
      curvature: measure the curvature along the gradient and the largest eigenvalue of the Hessian: two
        Hessian-vector products in every full record, and a copy of the parameters in the state.
      b2, eps: of Adam, for `adam_lag` and `tiny_second_moment`; without one, b2 is read off the optimizer. Where parts
        of the parameters have optimizers of their own, `eps` may be a mapping from the paths of parameters.
      spikes: None, or what to do with a gradient norm far above its own history: `"clip"` it there, or `"skip"` it.
      respond: take updates at `min(lr_scale, rate_limit / rate_peak)` of the rate and clip gradients to `grad_limit`,
        all of `state.health`.
    """

    every: int = 1
    rare_every: int = 50
    flush_every: int = 100
    taps: bool = True
    curvature: bool = False
    b2: float | None = None
    eps: float | Mapping[str, float] = 1e-8
    spikes: str | None = None
    respond: bool = False

    @property
    def guarded(self) -> bool:
        """Whether the step may change a gradient before the optimizer sees it."""
        return self.spikes is not None or self.respond

    def detail(self, first: int, last: int) -> str:
        """What the call that takes steps `first..last`, counted from 1, measures: a pure function of the numbers.

        Example:
          >>> [Signals(every=2, rare_every=10).detail(step, step) for step in (1, 2, 10, 100)]
          ['lean', 'rows', 'full', 'flush']
        """

        def due(every: int) -> bool:
            return last // every > (first - 1) // every

        if due(self.flush_every):
            return "flush"
        return "full" if due(self.rare_every) else "rows" if due(self.every) else "lean"


def settings(health: bool | Signals) -> Signals | None:
    """Returns what `health=` stands for: None for False, the defaults for True.

    Raises:
      UsageError: for an interval below 1, or an unknown response to spikes.

    Example:
      >>> settings(True).rare_every, settings(False)
      (50, None)
    """
    signals = health if isinstance(health, Signals) else Signals() if health else None
    if signals is None:
        return None
    for name in ("every", "rare_every", "flush_every"):
        if getattr(signals, name) < 1:
            raise UsageError(f"expected {name} of at least 1, got {getattr(signals, name)}")
    if signals.spikes not in SPIKES:
        raise UsageError(f"expected spikes of None, 'clip' or 'skip', got {signals.spikes!r}")
    return signals
