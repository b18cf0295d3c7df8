"""`jaxprop explain`: one training step, for people who want to see backpropagation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import ConfigArgument, JsonOption, OverridesArgument, split
from jaxprop.cli.output import print_json
from jaxprop.cli.tables import shorten, show
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME

if TYPE_CHECKING:
    from jaxprop.tools.explain import Example, Explanation, Layer, Parameter

WORST = 6  # checks that are shown


def explain(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    layer_limit: Annotated[int, typer.Option("--layer-limit", min=1, help="rows a table shows at most")] = 30,
    json: JsonOption = False,
) -> int:
    """Show one training step, layer by layer: forward, loss, backward, update.

    The figures are checked against the step that trains. Exit code 1 if they disagree beyond rounding.
    """
    config, changes = split(config, overrides)
    from jaxprop.config.load import load

    loaded = load(config, changes)
    # Only now, so that a mistake in the file is told before jax has loaded.
    from jaxprop.tools.explain import explain as take_apart

    found = take_apart(loaded.config)
    if json:
        print_json(found)
    else:
        _print(found, layer_limit)
    return EXIT_DONE if found.ok else EXIT_RUNTIME


def _print(found: Explanation, limit: int) -> None:
    print(f"Step {found.step} of training, on one batch of {found.batch_size} examples.")
    for note in found.notes:
        print(f"Note: {note}.")
    _forward(found, limit)
    _loss(found)
    _backward(found, limit)
    _update(found)
    _after(found)
    _checks(found)


def _forward(found: Explanation, limit: int) -> None:
    _title("1. Forward", "Each layer turns the one before it into new numbers, a_k = f_k(a_(k-1); w_k).")
    rows, more = shorten(found.layers, limit - limit // 2, limit // 2)
    headers = ["activation", "shape", "mean", "std", "RMS", "dead units", "saturated"]
    show(headers, map(_activation, rows), right=[2, 3, 4, 5, 6])
    _more(more, "activations")
    print(
        "Healthy: an RMS that neither explodes nor dies out with depth, and few units that are dead on every example."
    )


def _loss(found: Explanation) -> None:
    _title("2. Loss", "One number an example says how wrong the outputs are; the batch's loss is their weighted mean,")
    print("L = sum_i w_i l_i / sum_i w_i.")
    show(
        ["example", "label", "loss", "weight"],
        map(_example, range(len(found.examples)), found.examples),
        right=[1, 2, 3],
    )
    print(f"All {found.batch_size} examples, of total weight {found.weight:,.6g}: L = {found.loss:.6g}.")


def _backward(found: Explanation, limit: int) -> None:
    _title("3. Backward", "The chain rule, from the loss down: dL/da_(k-1) = (da_k/da_(k-1))^T dL/da_k. Each layer")
    print("multiplies the gradient that it is handed by its own slope; `times` is by how much its size changed.")
    rows, more = shorten(found.layers[::-1], limit - limit // 2, limit // 2)
    cells = [(row.name, f"{row.grad_rms:.4g}", "" if row.ratio is None else f"{row.ratio:.3g}") for row in rows]
    show(["activation", "RMS of dL/da", "times"], cells, right=[1, 2])
    _more(more, "activations")
    print("On the way every weight gets its share, dL/dw_k = (da_k/dw_k)^T dL/da_k:")
    params, more = shorten(found.parameters, limit - limit // 2, limit // 2)
    headers = ["parameter", "shape", "norm", "gradient norm", "gradient RMS", "update norm", "update/norm"]
    show(headers, map(_parameter, params), right=[2, 3, 4, 5, 6])
    _more(more, "parameters")


def _update(found: Explanation) -> None:
    clip = found.clip
    _title("4. Clipping", "A gradient longer than its bound is made shorter: g <- g min(1, bound / ||g||).")
    if clip is None:
        print("This run clips nothing (optimizer.grad_clip).")
    else:
        touched = "left as it is" if clip.after >= clip.before * (1 - 1e-6) else f"times {clip.after / clip.before:.4g}"
        print(f"||g|| = {clip.before:.6g} before, {clip.after:.6g} after: {touched}.")
    rate = "" if found.learning_rate is None else f" The learning rate of this step is {found.learning_rate:.4g}."
    _title("5. Update", f"The optimizer turns gradients into updates, and w <- w + update.{rate}")
    w = found.followed
    print("The weight with the largest gradient, followed by hand:")
    rows = [
        ("w", w.before),
        ("g = dL/dw", w.grad),
        ("g after clipping", w.clipped),
        ("update", w.update),
        ("new w", w.after),
    ]
    show([f"{w.path}{list(w.place) or ''}", ""], [(name, f"{value:.8g}") for name, value in rows], right=[1])


def _after(found: Explanation) -> None:
    _title(
        "6. After it",
        "The gradient promises a change of g . update, as far as the loss is straight; the same batch says:",
    )
    change = found.loss_after - found.loss
    promised = f"{change:+.4g}, where {found.expected:+.4g} was promised"
    print(f"L = {found.loss:.6g} before, {found.loss_after:.6g} after: {promised}.")


def _checks(found: Explanation) -> None:
    _title("Check", "All of this is plain autodiff and optax. The step that trains, on the same batch and key, says:")
    worst = sorted(found.checks, key=lambda check: (check.agrees, -check.difference))
    cells = [
        (c.name, f"{c.here:.7g}", f"{c.step:.7g}", f"{c.difference:.1e}", "" if c.agrees else "differs") for c in worst
    ]
    show(["figure", "here", "train step", "difference", ""], cells[:WORST], right=[1, 2, 3])
    largest, verdict = worst[0].difference, "agree" if found.ok else "DISAGREE"
    print(
        f"{len(worst)} figures {verdict} with the train step: the largest relative difference is {largest:.1e}, "
        f"rounding allows {found.tolerance:.1e}."
    )


# -- cells ----------------------------------------------------------------------------------------


def _title(name: str, sentence: str) -> None:
    print(f"\n{name}. {sentence}" if name[0].isalpha() else f"\n{name}: {sentence}")


def _activation(row: Layer) -> tuple[str, ...]:
    shape = "in a loop" if row.shape is None else str(list(row.shape))
    dead, saturated = _share(row.dead), _share(row.saturated)
    return row.name, shape, _figure(row.mean), _figure(row.std), _figure(row.rms), dead, saturated


def _example(i: int, example: Example) -> tuple[str, ...]:
    label = "" if example.label is None else f"{example.label:g}"
    return str(i), label, f"{example.loss:.5g}", f"{example.weight:g}"


def _parameter(row: Parameter) -> tuple[str, ...]:
    sizes = (row.norm, row.grad_norm, row.grad_rms, row.update_norm)
    ratio = f"{row.update_ratio:.3g}" if row.norm else ""
    return row.path, str(list(row.shape)), *(f"{size:.3g}" for size in sizes), ratio


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _more(count: int, what: str) -> None:
    if count:
        print(f"({count} {what} between them are not shown; --layer-limit shows more)")
