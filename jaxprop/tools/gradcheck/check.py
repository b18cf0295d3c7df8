"""Reverse mode against central differences and forward mode, entry by entry, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from jaxprop.core.jaxprs.walk import narrowest
from jaxprop.errors import UsageError
from jaxprop.tools.gradcheck import differences, rules, sentences, stops
from jaxprop.tools.gradcheck.differences import LEVELS, SAFETY, STEPS
from jaxprop.tools.gradcheck.lines import Lines, Point, Ray, trace
from jaxprop.tools.gradcheck.report import Entry, Leaf, Report
from jaxprop.train.objective import LossFn
from jaxprop.types import Batch, Objective, PyTree

ALL = "all parameters"
RESOLVED = 1e-3  # a bound above this share of the derivative says nothing about it
NEGLIGIBLE = 1e-6  # share of the RMS of all gradients
NOISE_POINTS, NOISE_STEP, NOISE_OFFSET = 10, 1e-10, 1e-4


class Row(NamedTuple):
    """What is checked: one entry of a leaf, a leaf's random direction, or one over all parameters."""

    leaf: int | None
    at: int | None  # which entry of the leaf, flat
    ray: Ray


class Evidence(NamedTuple):
    """What is known of the rows, each `[n]`, along their rays: reverse, forward, its bound, and a size to compare with.

    Args:
      reverse, forward: derivatives.
      bound: what rounding may make of forward against reverse.
      size: of a derivative here that would matter.
      least: of one that would matter anywhere in the loss.
    """

    reverse: np.ndarray
    forward: np.ndarray
    bound: np.ndarray
    size: np.ndarray
    least: np.ndarray


def gradcheck(
    loss_fn: LossFn | Objective,
    params: PyTree,
    batch: Batch,
    key: jax.Array | None = None,
    *,
    extras: PyTree = (),
    entries: int = 16,
    directions: int = 3,
    seed: int = 0,
    nudge: float = 0.0,
) -> Report:
    """Checks the gradient of a loss in float64: reverse mode against central differences and against forward mode.

        dL/dw_i  =  (L(w + h e_i) - L(w - h e_i)) / 2h  +  O(h^2)

    with h, h/2, h/4 extrapolated twice, at up to four h. Every `custom_vjp` and `custom_jvp` is also compared with
    plain autodiff of its own function, at the values and cotangents it meets. Entries at which the loss is not
    differentiable are left out and counted, and so are those that rounding hides. Tolerances are the measured rounding
    of the loss and of its gradient, and the truncation that the extrapolation shows.

    Args:
      loss_fn: `(params, batch, key) -> loss` or `(loss, aux)`, or `jaxprop.loss_from(model, loss)`.
      params: any pytree; floating-point leaves are differentiated, in float64.
      batch: what the loss takes.
      key: PRNG key, the same for every evaluation.
      extras: batch statistics and the like, of an objective; not differentiated.
      entries: entries checked of a leaf; of a larger one a seeded sample, half of it where the gradient is not 0,
        and a random direction over the whole leaf.
      directions: random directions over all parameters, which an error anywhere shows in.
      seed: of the sample and the directions.
      nudge: first moves every parameter by this share of its leaf's RMS, at random: zeros and ties that an
        initialization leaves hide errors.

    Returns:
      The report; `report.ok`, `report.worst`, one row a leaf, `report.rules`.

    Raises:
      UsageError: the loss cannot be differentiated, or is not finite.
      ShapeError: the loss is no scalar.

    Example:
      >>> import jax.numpy as jnp, jaxprop
      >>> loss_fn = lambda params, batch, key: jnp.sum(jnp.sin(batch["x"] * params["w"]))
      >>> report = jaxprop.gradcheck(loss_fn, {"w": jnp.ones(3)}, {"x": jnp.ones(3)})
      >>> report.ok, report.leaves[0].path, report.leaves[0].checked
      (True, 'w', 3)

    Reference:
      Moré and Wild, Estimating Computational Noise, 2011; Higham and Mary, A New Approach to Probabilistic Rounding
      Error Analysis, 2019.
    """
    # Under x64 an argmax is int64 and labels are int32, which a strict promotion would refuse.
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        point, traced = trace(loss_fn, params, batch, jax.random.key(0) if key is None else key, extras)
        rng = np.random.default_rng(seed)
        flat = point.flat + nudge * _unit(point) * rng.normal(size=point.flat.size)
        stored = _directions(point, rng, directions)
        return _check(traced, point, flat, stored, entries, rng)


def _check(
    traced: ClosedJaxpr, point: Point, flat: np.ndarray, stored: np.ndarray, entries: int, rng: np.random.Generator
) -> Report:
    most = 6 * (len(point.paths) * (entries + 1) + len(stored))
    lines = Lines(traced, point, flat, stored, min(most, 4096))
    loss, grads = lines.reverse(flat)
    if not np.isfinite(loss):
        raise UsageError(
            f"the loss is {loss} at these parameters, so there is no gradient to check; "
            "jaxprop.health.find_nonfinite finds where it began"
        )
    broken = sentences.not_finite(point, lines.reverse(point.flat)[1])
    if not np.isfinite(grads).all():
        sentence = sentences.not_finite(point, grads)
        return Report(False, loss, (), (), (), (), tuple(sentence), ())
    rows = _rows(point, flat, grads, stored, entries, rng)
    noise, grad_noise = _noise(lines, flat, stored[1])
    eps = narrowest(traced, inputs=[0])  # of the parameters; everything else stays what it is
    evidence = _evidence(lines, point, grads, grad_noise, rows, eps)
    found = _settle(lines, rows, evidence, loss, max(noise, eps * abs(loss)))
    checked = [_entry(point, row, evidence, i, *found[i]) for i, row in enumerate(rows)]
    leaves = tuple(_leaf(point, i, grads, rows, checked) for i in range(len(point.paths)))
    whole = tuple(entry for row, entry in zip(rows, checked, strict=True) if row.leaf is None)
    calls = rules.rule_calls(traced)
    compared = rules.summarize(calls, rules.collect_sums(traced, calls, [flat, *point.rest])) if calls else ()
    wrong = [i for i, entry in enumerate(checked) if not entry.agrees]
    stopped = stops.explaining_stops(lines, [rows[i].ray for i in wrong], [checked[i] for i in wrong])
    problems = (*broken, *sentences.problems(leaves, whole, compared, stopped))
    ok = not problems
    return Report(
        ok, loss, leaves, whole, compared, stopped, problems, sentences.notes(point, leaves, whole, compared, eps)
    )


# -- what is checked --------------------------------------------------------------------------------


def _unit(point: Point) -> np.ndarray:
    """A size to move each parameter by: the RMS of its leaf, of all parameters for a leaf of zeros, or 1, `[N]`."""
    whole = float(np.sqrt(np.mean(np.square(point.flat)))) if point.flat.size else 0.0
    sizes = []
    for a, b in zip(point.starts, point.starts[1:], strict=False):
        own = float(np.sqrt(np.mean(np.square(point.flat[a:b])))) if b > a else 0.0
        sizes.append(np.full(b - a, own or whole or 1.0))
    return np.concatenate(sizes)


def _directions(point: Point, rng: np.random.Generator, count: int) -> np.ndarray:
    """Ones, then random directions in which each leaf moves by its own size, `[1 + count, N]`."""
    noise = _unit(point) * rng.normal(size=(max(count, 1), point.flat.size))
    return np.concatenate([np.ones((1, point.flat.size)), noise])


def _rows(
    point: Point, flat: np.ndarray, grads: np.ndarray, stored: np.ndarray, entries: int, rng: np.random.Generator
) -> list[Row]:
    rows, unit = [], _unit(point)
    for leaf, (a, b) in enumerate(zip(point.starts, point.starts[1:], strict=False)):
        if a == b:
            continue
        chosen = np.arange(b - a)
        if b - a > entries:
            reached = np.flatnonzero(grads[a:b])
            half = rng.choice(reached, min(entries // 2, reached.size), replace=False)
            others = rng.choice(np.setdiff1d(chosen, half), entries - half.size, replace=False)
            chosen = np.union1d(half, others)
        for index in chosen.tolist():
            scale = float(max(unit[a + index], abs(flat[a + index])))
            rows.append(Row(leaf, index, Ray(a + index, a + index + 1, 0, scale)))
        if b - a > entries:
            rows.append(Row(leaf, None, Ray(a, b, 1, (b - a) ** -0.5)))
    n = point.flat.size
    return rows + [Row(None, None, Ray(0, n, i, n**-0.5)) for i in range(1, len(stored))]


def _noise(lines: Lines, flat: np.ndarray, direction: np.ndarray) -> tuple[float, np.ndarray]:
    """Standard deviation of the rounding of the loss, and of each entry of its gradient, beside the point."""
    steps = NOISE_OFFSET + NOISE_STEP * np.arange(NOISE_POINTS)
    values, grads = zip(*(lines.reverse(flat + step * direction) for step in steps), strict=True)
    return float(differences.noise_of(np.asarray(values))), differences.noise_of(np.asarray(grads))


def _evidence(
    lines: Lines, point: Point, grads: np.ndarray, noise: np.ndarray, rows: Sequence[Row], eps: float
) -> Evidence:
    stored = np.asarray(lines.stored)
    summed = point.flat.size + sum(int(np.size(x)) for x in point.rest if hasattr(x, "dtype"))
    forward = lines.slopes([row.ray for row in rows])
    overall = float(np.sqrt(np.mean(np.square(grads))))
    found = []
    for row in rows:
        a, b, which, scale = row.ray
        along = scale * stored[which, a:b]
        # Of one entry its leaf's noise too: a single number's fourth differences may happen to be 0.
        lo, hi = (0, grads.size) if row.leaf is None else point.starts[row.leaf : row.leaf + 2]
        leaf_rms, leaf_noise = (float(np.sqrt(np.mean(np.square(x[lo:hi])))) for x in (grads, noise))
        length = float(np.linalg.norm(along))
        size = max(float(np.linalg.norm(along * grads[a:b])), length * leaf_rms)
        rounding = max(float(np.linalg.norm(along * noise[a:b])), length * leaf_noise)
        bound = SAFETY * (rounding + eps * summed**0.5 * size)
        found.append((float(along @ grads[a:b]), bound, size, length * overall))
    columns = [np.asarray(column) for column in zip(*found, strict=True)]
    return Evidence(columns[0], forward, *columns[1:])


# -- whether they agree -----------------------------------------------------------------------------


def _settle(
    lines: Lines, rows: Sequence[Row], known: Evidence, loss: float, noise: float
) -> list[tuple[float, float, bool, str]]:
    """Difference, tolerance, agreement and what is left out for each row; goes to other steps where need be."""
    best = differences.best_step(noise / max(abs(loss), noise))
    centre = float(lines.values([rows[0].ray], np.zeros(1))[0])
    tried: list[list[tuple[float, float]]] = [[] for _ in rows]
    waiting = list(range(len(rows)))
    for share in LEVELS:
        step = share * best
        h = step * STEPS
        rays = [rows[i].ray for i in waiting for _ in range(2 * len(STEPS))]
        offsets = np.tile(np.concatenate([h, -h]), len(waiting))
        values = lines.values(rays, offsets).reshape(len(waiting), 2, len(STEPS))
        found = differences.level(step, centre, values[:, 0], values[:, 1], noise)
        for place, i in enumerate(waiting):
            if found.clean[place]:
                tried[i].append((float(found.bound[place] + known.bound[i]), float(found.value[place])))
        waiting = [i for i in waiting if not (tried[i] and _convinces(known, i, *min(tried[i])))]
        if not waiting:
            break
    return [_conclusion(known, i, sorted(tried[i])) for i in range(len(rows))]


def _resolved(known: Evidence, i: int, bound: float, value: float) -> bool:
    size = max(abs(known.reverse[i]), abs(value), known.size[i])
    # To the bit the same is as good as it gets: most often both are 0.
    return value == known.reverse[i] or bound <= max(RESOLVED * size, NEGLIGIBLE * known.least[i])


def _convinces(known: Evidence, i: int, bound: float, value: float) -> bool:
    return _resolved(known, i, bound, value) and abs(value - known.reverse[i]) <= bound


def _conclusion(known: Evidence, i: int, tried: list[tuple[float, float]]) -> tuple[float, float, bool, str]:
    """Two independent pairs of steps have to contradict before anything is called wrong, where there are two."""
    if not tried:
        return float("nan"), float("nan"), True, "kink"
    bound, value = tried[0]
    if not _resolved(known, i, bound, value):
        tolerance = max(known.bound[i], NEGLIGIBLE * known.size[i])
        apart = abs(known.forward[i] - known.reverse[i])
        return float("nan"), tolerance, not apart > tolerance, "" if apart > tolerance else "noise"
    agrees = any(abs(value - known.reverse[i]) <= bound for bound, value in tried[:2])
    return value, bound, agrees, ""


def _entry(
    point: Point, row: Row, known: Evidence, i: int, difference: float, tolerance: float, agrees: bool, left_out: str
) -> Entry:
    # Reported by entry, not by the step along the ray.
    scale = row.ray.scale if row.at is not None else 1.0
    other = known.forward[i] if np.isnan(difference) else difference
    error = abs(other - known.reverse[i])
    path = ALL if row.leaf is None else point.paths[row.leaf]
    index = None
    if row.leaf is not None and row.at is not None:
        index = tuple(int(n) for n in np.unravel_index(row.at, point.shapes[row.leaf]))
    slopes = [float(x / scale) for x in (known.reverse[i], difference, known.forward[i])]
    return Entry(
        path, index, slopes[0], slopes[1], slopes[2], float(error / scale), float(tolerance / scale), agrees, left_out
    )


def _leaf(point: Point, leaf: int, grads: np.ndarray, rows: Sequence[Row], checked: Sequence[Entry]) -> Leaf:
    own = [entry for row, entry in zip(rows, checked, strict=True) if row.leaf == leaf]
    part = grads[point.starts[leaf] : point.starts[leaf + 1]]
    known = [entry for entry in own if not entry.left_out]
    return Leaf(
        point.paths[leaf],
        point.shapes[leaf],
        float(np.sqrt(np.mean(np.square(part)))) if part.size else 0.0,
        sum(entry.place is not None for entry in known),
        sum(entry.left_out == "kink" and entry.place is not None for entry in own),
        sum(entry.left_out == "noise" and entry.place is not None for entry in own),
        sum(not entry.agrees for entry in known),
        max(known, key=lambda entry: (not entry.agrees, entry.error / (entry.tolerance or 1.0)), default=None),
    )
