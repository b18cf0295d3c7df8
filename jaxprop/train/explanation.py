"""What an explained step is made of, and its text in lines of at most 120 columns where names are short. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from jaxprop.errors import printable

WORST = 6  # checks that are shown
LIMIT = 30  # rows of a table
T = TypeVar("T")


class Example(NamedTuple):
    """One example of the batch: its label if that is one number, its loss, and its weight in the batch's mean."""

    label: float | None
    loss: float
    weight: float


class Layer(NamedTuple):
    """One tapped activation; unknown values are None.

    Args:
      name, kind: name and kind of the tap.
      shapes: shape of the activation, with the batch axis first, in each use of the tap; none inside a scan.
      mean, std: mean and standard deviation of its entries; None inside a scan.
      rms: root mean square of its entries.
      dead: fraction of units that are <= 0 on every example, for relu taps.
      saturated: fraction of saturated values, for tanh and sigmoid taps.
      grad_rms: root mean square of dL/d(activation).
      ratio: `grad_rms` over that of the next layer towards the loss.
    """

    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    mean: float | None
    std: float | None
    rms: float
    dead: float | None
    saturated: float | None
    grad_rms: float
    ratio: float | None


class Parameter(NamedTuple):
    """One parameter: its norm, its gradient and its update."""

    path: str
    shape: tuple[int, ...]
    norm: float
    grad_norm: float
    grad_rms: float
    update_norm: float
    update_ratio: float


class Clip(NamedTuple):
    """The global gradient norm before and after clipping."""

    before: float
    after: float


class Followed(NamedTuple):
    """The weight with the largest gradient, followed through the update."""

    path: str
    place: tuple[int, ...]
    before: float
    grad: float
    clipped: float
    update: float
    after: float


class Check(NamedTuple):
    """One figure as computed here and by the train step; `difference` is relative to the larger of the two."""

    name: str
    here: float
    step: float
    difference: float
    agrees: bool


class Explanation(NamedTuple):
    """What a training step does, and how; `print` shows it as text, from the loss to the update.

    Args:
      ok: whether all checks agree.
      step: number of the step, from 1.
      examples: the first few examples of the batch; none where the loss of one example is not known.
      batch_size: number of examples in the batch; None where its arrays have no common first axis.
      loss, weight: weighted mean of the loss over the batch, and the sum of the weights.
      layers, parameters: tapped activations in the order of the forward pass, and trained parameters in that of their
        paths.
      clip: gradient norms before and after clipping; None where `clip=` of the step does not tell of any.
      learning_rate: learning rate of this step; None where it is not known.
      taken: whether the update is made; the guard may skip it.
      factor: what the guard multiplies the gradient by, 1 where it does nothing.
      followed: one weight through the update.
      expected: first-order change of the loss, g . dw.
      loss_after: loss on the same batch with the new parameters.
      tolerance: largest relative difference of a check, the square root of the compute type's epsilon.
      checks: comparisons with the train step.
      notes: what this step differs in from the others, one sentence each.
    """

    ok: bool
    step: int
    examples: tuple[Example, ...]
    batch_size: int | None
    loss: float
    weight: float
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]
    clip: Clip | None
    learning_rate: float | None
    taken: bool
    factor: float
    followed: Followed
    expected: float
    loss_after: float
    tolerance: float
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return text(self)


def text(found: Explanation, limit: int = LIMIT) -> str:
    """Returns the stages of a step as text: forward, loss, backward, clipping, update, afterwards, and the check.

    Args:
      found: the explanation.
      limit: largest number of rows in a table.
    """
    return "\n".join(_lines(found, limit))


def _lines(found: Explanation, limit: int) -> Iterator[str]:
    examples = "" if found.batch_size is None else f" of {found.batch_size} examples"
    yield f"Training step {found.step} on one batch{examples}."
    for note in found.notes:
        yield f"Note: {note}."
    for stage in (_forward(found, limit), _loss(found), _backward(found, limit), _update(found), _after(found)):
        yield from stage
    yield from _checks(found)


def _forward(found: Explanation, limit: int) -> Iterator[str]:
    yield from _title(
        "1. Forward", "Each layer computes its activation from the previous one, a_k = f_k(a_(k-1); w_k)."
    )
    if not found.layers:
        yield "No activation is tapped: jaxprop.tap(x, name) in the loss function shows it here."
        return
    rows, more = _shortened(found.layers, limit)
    headers = ["activation", "shape", "mean", "std", "RMS", "dead units", "saturated"]
    yield from _table(headers, map(_activation, rows), right=[2, 3, 4, 5, 6])
    yield from _more(more, "activations")
    yield "In a healthy network the RMS neither grows nor shrinks strongly with depth, and few units are dead,"
    yield "which means that they are at most 0 on every example."


def _loss(found: Explanation) -> Iterator[str]:
    if not found.examples:
        yield from _title("2. Loss", f"L = {found.loss:.6g}, with a total weight of {found.weight:,.6g}.")
        return
    yield from _title("2. Loss", "Each example has a loss, and the loss of the batch is their weighted mean,")
    yield "L = sum_i w_i l_i / sum_i w_i."
    columns = {
        "example": [str(i) for i in range(len(found.examples))],
        "label": ["" if example.label is None else f"{example.label:g}" for example in found.examples],
        "loss": [f"{example.loss:.5g}" for example in found.examples],
        "weight": [f"{example.weight:g}" for example in found.examples],
    }
    if not any(columns["label"]):  # a label that is no single number, such as a text
        del columns["label"]
    yield from _table([*columns], zip(*columns.values(), strict=True), right=range(1, len(columns)))
    yield f"For all {found.batch_size} examples, with a total weight of {found.weight:,.6g}: L = {found.loss:.6g}."


def _backward(found: Explanation, limit: int) -> Iterator[str]:
    chain = "The chain rule, from the loss to the input: dL/da_(k-1) = (da_k/da_(k-1))^T dL/da_k."
    yield from _title("3. Backward", chain)
    if found.layers:
        yield "Each layer multiplies the gradient by its own derivative; `times` is the factor on its RMS."
        rows, more = _shortened(found.layers[::-1], limit)
        cells = [(row.name, f"{row.grad_rms:.4g}", "" if row.ratio is None else f"{row.ratio:.3g}") for row in rows]
        yield from _table(["activation", "RMS of dL/da", "times"], cells, right=[1, 2])
        yield from _more(more, "activations")
    yield "The gradient of each parameter is dL/dw_k = (da_k/dw_k)^T dL/da_k:"
    params, more = _shortened(found.parameters, limit)
    headers = ["parameter", "shape", "norm", "gradient norm", "gradient RMS", "update norm", "update/norm"]
    yield from _table(headers, map(_parameter, params), right=[2, 3, 4, 5, 6])
    yield from _more(more, "parameters")


def _update(found: Explanation) -> Iterator[str]:
    clip = found.clip
    rule = "A gradient whose norm exceeds the bound is scaled down: g <- g min(1, bound / ||g||)."
    yield from _title("4. Clipping", rule)
    if clip is None:
        yield "No clipping is known here (optimizer.grad_clip, or clip= of make_train_step)."
    else:
        touched = (
            "unchanged" if clip.after >= clip.before * (1 - 1e-6) else f"a factor of {clip.after / clip.before:.4g}"
        )
        yield f"||g|| = {clip.before:.6g} before, {clip.after:.6g} after: {touched}."
    if found.factor != 1:
        yield f"Before that, the guard multiplies the gradient by {found.factor:.4g}."
    rate = "" if found.learning_rate is None else f" The learning rate of this step is {found.learning_rate:.4g}."
    yield from _title("5. Update", f"The optimizer turns gradients into updates, and w <- w + update.{rate}")
    if not found.taken:
        yield "The train step skips this update, since its guard takes the gradient for a spike. It would be:"
    w = found.followed
    yield "The weight with the largest gradient:"
    rows = [
        ("w", w.before),
        ("g = dL/dw", w.grad),
        ("g after clipping", w.clipped),
        ("update", w.update),
        ("new w", w.after),
    ]
    cells = [(name, f"{value:.8g}") for name, value in rows]
    yield from _table([f"{w.path}{list(w.place) or ''}", ""], cells, right=[1])


def _after(found: Explanation) -> Iterator[str]:
    first_order = "To first order, the update changes the loss by g . update. On the same batch:"
    yield from _title("6. After the update", first_order)
    change = found.loss_after - found.loss
    predicted = f"a change of {change:+.4g}, where {found.expected:+.4g} was predicted"
    yield f"L = {found.loss:.6g} before, {found.loss_after:.6g} after: {predicted}."


def _checks(found: Explanation) -> Iterator[str]:
    source = "These figures come from plain autodiff and optax. The train step on the same batch and key gives:"
    yield from _title("Check", source)
    worst = sorted(found.checks, key=lambda check: (check.agrees, -check.difference))
    cells = [
        (c.name, f"{c.here:.7g}", f"{c.step:.7g}", f"{c.difference:.1e}", "" if c.agrees else "differs") for c in worst
    ]
    yield from _table(["figure", "here", "train step", "difference", ""], cells[:WORST], right=[1, 2, 3])
    largest, verdict = worst[0].difference, "agree" if found.ok else "DISAGREE"
    yield f"{len(worst)} figures {verdict} with the train step: the largest relative difference is {largest:.1e},"
    yield f"and rounding allows {found.tolerance:.1e}."


# -- cells ----------------------------------------------------------------------------------------


def _title(name: str, sentence: str) -> Iterator[str]:
    yield ""
    yield f"{name}. {sentence}" if name[0].isalpha() else f"{name}: {sentence}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int]) -> Iterator[str]:
    cells = [headers, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = " ".join("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (width + 1) for width in widths)
    for i, row in enumerate(cells):
        if i < 2:
            yield rule
        padded = (
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )  # fmt: skip
        yield "  ".join(padded).rstrip()
    yield rule


def _shortened(rows: Sequence[T], limit: int) -> tuple[list[T], int]:
    """The rows at both ends, and the number of those left out between them."""
    first = limit - limit // 2
    left_out = max(len(rows) - limit, 0)
    return [*rows[:first], *rows[first + left_out :]], left_out


def _activation(row: Layer) -> tuple[str, ...]:
    dead, saturated = _share(row.dead), _share(row.saturated)
    return row.name, _shape(row.shapes), _figure(row.mean), _figure(row.std), _figure(row.rms), dead, saturated


def _shape(shapes: Sequence[tuple[int, ...]]) -> str:
    """The shape of the first use, and how many others there are.

    Example:
      >>> _shape([(2, 8), (2, 4)]), _shape([(2, 8)]), _shape([])
      ('[2, 8] and 1 more', '[2, 8]', 'in a loop')
    """
    more = f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""
    return f"{list(shapes[0])}{more}" if shapes else "in a loop"


def _parameter(row: Parameter) -> tuple[str, ...]:
    sizes = (row.norm, row.grad_norm, row.grad_rms, row.update_norm)
    ratio = f"{row.update_ratio:.3g}" if row.norm else ""
    return row.path, str(list(row.shape)), *(f"{size:.3g}" for size in sizes), ratio


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _more(count: int, what: str) -> Iterator[str]:
    if count:
        yield f"({count} {what} between them are not shown; --layer-limit, or a larger limit of `text`, shows more)"
