"""What a gradient check says, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jaxprop.tools.gradcheck.lines import Point
from jaxprop.tools.gradcheck.report import Entry, Leaf, Rule, Stop

LISTED = 8
MEANT = "that may be meant, as in a straight-through estimator, gradient reversal or gradient clipping"


def problems(
    leaves: Sequence[Leaf], whole: Sequence[Entry], rules: Sequence[Rule], stops: Sequence[Stop]
) -> tuple[str, ...]:
    """One sentence for each rule that differs, each leaf that does, and what accounts for it."""
    return (*_rules(rules), *_stops(stops), *_entries(leaves, whole))


def _rules(rules: Sequence[Rule]) -> Iterator[str]:
    for rule in rules:
        if not rule.agrees:
            yield (
                f"the {rule.kind} of {rule.name!r} ({rule.where}) is not the derivative of its function: "
                f"{rule.says}; {MEANT}"
            )


def _stops(stops: Sequence[Stop]) -> Iterator[str]:
    for stop in stops:
        yield (
            f"the stop_gradient at {stop.where} accounts for a difference: without it, forward mode gives "
            f"{stop.forward:.6g} there; that may be meant, as for targets"
        )


def _entries(leaves: Sequence[Leaf], whole: Sequence[Entry]) -> Iterator[str]:
    for leaf in leaves:
        if leaf.wrong and leaf.worst is not None:
            yield _entry(leaf.worst)
    wrong = [entry for entry in whole if not entry.agrees]
    if wrong and not any(leaf.wrong for leaf in leaves):
        yield _entry(max(wrong, key=lambda entry: entry.error))


def _entry(entry: Entry) -> str:
    where = " along a random direction" if entry.place is None else str(list(entry.place)) if entry.place else ""
    slope = f"central differences {entry.difference:.8g}, " if np.isfinite(entry.difference) else ""
    return (
        f"{entry.leaf}{where}: reverse mode gives {entry.reverse:.8g}, {slope}forward mode {entry.forward:.8g}; off by "
        f"{entry.error:.2g}, where rounding and truncation allow {entry.tolerance:.2g}"
    )


def not_finite(point: Point, grads: np.ndarray) -> list[str]:
    """The sentence for leaves whose gradient is not finite; none where all are."""
    spans = zip(point.paths, point.starts, point.starts[1:], strict=False)
    bad = [path for path, a, b in spans if not np.isfinite(grads[a:b]).all()]
    if not bad:
        return []
    return [
        f"the loss is finite, but the gradient of {_listed(bad)} is not: look for a square root, a norm, a division or "
        "a logarithm at 0 behind a jnp.where"
    ]


def notes(
    point: Point, leaves: Sequence[Leaf], whole: Sequence[Entry], rules: Sequence[Rule], eps: float
) -> tuple[str, ...]:
    """One sentence for everything that was not, or could not be, checked."""
    return (*_precision(eps), *_notes(point, leaves, whole, rules))


def _precision(eps: float) -> Iterator[str]:
    if eps > np.finfo(np.float64).eps:
        yield (
            f"the loss computes partly in a type of precision {eps:.1g}, whatever it is given, so smaller errors "
            "cannot be seen; take its casts off to check it in float64"
        )


def _notes(point: Point, leaves: Sequence[Leaf], whole: Sequence[Entry], rules: Sequence[Rule]) -> Iterator[str]:
    if point.fixed:
        yield f"not differentiated, since not floating-point: {_listed(point.fixed)}"
    kinks = sum(leaf.kinks for leaf in leaves)
    if kinks:
        only = [leaf.path for leaf in leaves if leaf.kinks and not leaf.checked]
        alone = f"; of {_listed(only)} none is left" if only else ""
        yield f"{_count(kinks, 'entry', 'entries')} left out, where the loss is not differentiable at the point{alone}"
    noise = sum(leaf.noise for leaf in leaves)
    if noise:
        hidden = "left out, whose derivative rounding hides from differences; forward mode agrees"
        yield f"{_count(noise, 'entry', 'entries')} {hidden}"
    crossed = sum(entry.left_out == "kink" for entry in whole)
    if crossed:
        yield f"{crossed} of {len(whole)} random directions left out, along which the loss is not differentiable"
    without = [leaf.path for leaf in leaves if leaf.grad_rms == 0 and leaf.shape != (0,)]
    if without:
        yield f"no gradient reaches {_listed(without)}: a rule behind a factor of 0 cannot be checked"
    blind = sorted({f"{rule.name!r} ({rule.where})" for rule in rules if not rule.compared})
    if blind:
        why = "no gradient reaches it, or autodiff cannot pass its function"
        yield f"not compared, since {why}: the rule of {_listed(blind)}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
