"""What a coordinate check finds: how much each layer changes at each width. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

# A change that grows by less than this power of the width counts as one that does not; it is 0 in the limit of large
# widths, and with standard parametrization it was 0.51 to 2.35 in a transformer with Adam (docs/mup.md).
LIMIT = 0.25


class Layer(NamedTuple):
    """How much a layer's activations change in some steps, at each width.

    Args:
      name: of its tap.
      changes: root mean square of the change since the start, the mean over seeds; one for each width.
      power: slope of log change over log width: the change is proportional to width^power.
      sizes: root mean square of the activation itself after the steps.
    """

    name: str
    changes: tuple[float, ...]
    power: float
    sizes: tuple[float, ...]


class Checked(NamedTuple):
    """What a coordinate check has found.

    Args:
      parametrization: `standard` or `mup`.
      widths: of the models that were trained.
      steps: that each took.
      seeds: how many models of each width.
      layers: in the order of the forward pass.
      holds: whether no layer's change depends on the width by more than `LIMIT`.
      verdict: that in a sentence.
    """

    parametrization: str
    widths: tuple[int, ...]
    steps: int
    seeds: int
    layers: tuple[Layer, ...]
    holds: bool
    verdict: str


def as_json(one: Checked) -> dict[str, Any]:
    """Returns a check as JSON values."""
    return {**one._asdict(), "layers": [layer._asdict() for layer in one.layers]}
