"""What a gradient check finds."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One derivative, three ways: of one parameter entry, or along a random direction.

    Args:
      leaf: path of the parameter, or `all parameters`.
      place: index of the entry in its leaf; None for a direction.
      reverse: what `jax.grad` gives.
      difference: by central differences; NaN where none could be taken.
      forward: by forward mode, with the custom rules taken off; NaN where it is not finite.
      error: `|reverse - difference|`, or `|reverse - forward|` where differences are left out.
      tolerance: what rounding and truncation may make of it.
      agrees: whether it is within the tolerance; True where it is left out.
      left_out: why nothing is said about it: `""`, `"kink"` (not differentiable there) or `"noise"` (below rounding).
    """

    leaf: str
    place: tuple[int, ...] | None
    reverse: float
    difference: float
    forward: float
    error: float
    tolerance: float
    agrees: bool
    left_out: str


class Leaf(NamedTuple):
    """One parameter.

    Args:
      path: of the parameter.
      shape: of the parameter.
      grad_rms: root mean square of its gradient; 0 where none reaches it.
      checked: entries that were checked, those left out apart.
      kinks: entries left out because the loss is not differentiable there.
      noise: entries left out because rounding hides them.
      wrong: entries, and random directions, that do not agree.
      worst: the entry with the largest error for its tolerance; None where all are left out.
    """

    path: str
    shape: tuple[int, ...]
    grad_rms: float
    checked: int
    kinks: int
    noise: int
    wrong: int
    worst: Entry | None


class Rule(NamedTuple):
    """One `custom_vjp` or `custom_jvp`, compared with plain autodiff of the function it stands for.

    Args:
      name: of the function.
      kind: `custom_vjp` or `custom_jvp`.
      where: file and line of the rule.
      calls: how often the loss calls it.
      compared: whether it could be: a gradient reached it, and autodiff passes its function.
      error: `||rule - autodiff|| / max(||rule||, ||autodiff||)`, the worst argument's.
      tolerance: half the digits of the narrowest type that it computes in.
      agrees: whether the error is within it.
      says: what differs, in words; empty where it agrees.
    """

    name: str
    kind: str
    where: str
    calls: int
    compared: bool
    error: float
    tolerance: float
    agrees: bool
    says: str


class Stop(NamedTuple):
    """A `stop_gradient` that accounts for a difference: without it, forward mode gives another derivative.

    Args:
      where: file and line.
      forward: derivative along the worst entry without it.
    """

    where: str
    forward: float


class Report(NamedTuple):
    """What `gradcheck` returns.

    Args:
      ok: nothing disagrees.
      loss: at the point that was checked.
      leaves: one row a parameter, in the tree's order.
      directions: derivatives along random directions over all parameters.
      rules: every custom rule of the loss.
      stops: every `stop_gradient` that accounts for a difference.
      problems: one sentence for everything that disagrees.
      notes: one sentence for everything that could not be checked.
    """

    ok: bool
    loss: float
    leaves: tuple[Leaf, ...]
    directions: tuple[Entry, ...]
    rules: tuple[Rule, ...]
    stops: tuple[Stop, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def worst(self) -> Entry | None:
        """The entry or direction with the largest error for its tolerance."""
        found = [leaf.worst for leaf in self.leaves if leaf.worst is not None]
        found += [entry for entry in self.directions if not entry.left_out]
        return max(found, key=lambda entry: entry.error / entry.tolerance if entry.tolerance else 0.0, default=None)
