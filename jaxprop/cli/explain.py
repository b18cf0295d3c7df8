"""`jaxprop explain`: shows backpropagation in one training step."""

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
    layer_limit: Annotated[int, typer.Option("--layer-limit", min=1, help="largest number of rows in a table")] = 30,
    json: JsonOption = False,
) -> int:
    """Show one training step, layer by layer: forward, loss, backward, update.

    The figures are compared with those of the train step; the exit code is 1 if they differ by more than rounding.
    """
    config, changes = split(config, overrides)
    from jaxprop.config.load import load

    loaded = load(config, changes)
    # Imported late, so that a mistake in the file is reported before jax has loaded.
    from jaxprop.tools.explain import explain as take_apart

    found = take_apart(loaded.config)
    if json:
        print_json(found)
    else:
        _print(found, layer_limit)
    return EXIT_DONE if found.ok else EXIT_RUNTIME


def _print(found: Explanation, limit: int) -> None:
    print(f"Training step {found.step} on one batch of {found.batch_size} examples.")
    for note in found.notes:
        print(f"Note: {note}.")
    _forward(found, limit)
    _loss(found)
    _backward(found, limit)
    _update(found)
    _after(found)
    _checks(found)


def _forward(found: Explanation, limit: int) -> None:
    _title("1. Forward", "Each layer computes its activation from the previous one, a_k = f_k(a_(k-1); w_k).")
    rows, more = shorten(found.layers, limit - limit // 2, limit // 2)
    headers = ["activation", "shape", "mean", "std", "RMS", "dead units", "saturated"]
    show(headers, map(_activation, rows), right=[2, 3, 4, 5, 6])
    _more(more, "activations")
    print("In a healthy network the RMS neither grows nor shrinks strongly with depth, and few units are dead,")
    print("which means that they are at most 0 on every example.")


def _loss(found: Explanation) -> None:
    _title("2. Loss", "Each example has a loss, and the loss of the batch is their weighted mean,")
    print("L = sum_i w_i l_i / sum_i w_i.")
    show(
        ["example", "label", "loss", "weight"],
        map(_example, range(len(found.examples)), found.examples),
        right=[1, 2, 3],
    )
    print(f"For all {found.batch_size} examples, with a total weight of {found.weight:,.6g}: L = {found.loss:.6g}.")


def _backward(found: Explanation, limit: int) -> None:
    _title("3. Backward", "The chain rule, from the loss to the input: dL/da_(k-1) = (da_k/da_(k-1))^T dL/da_k.")
    print("Each layer multiplies the gradient by its own derivative; `times` is the factor on its RMS.")
    rows, more = shorten(found.layers[::-1], limit - limit // 2, limit // 2)
    cells = [(row.name, f"{row.grad_rms:.4g}", "" if row.ratio is None else f"{row.ratio:.3g}") for row in rows]
    show(["activation", "RMS of dL/da", "times"], cells, right=[1, 2])
    _more(more, "activations")
    print("The gradient of each parameter is dL/dw_k = (da_k/dw_k)^T dL/da_k:")
    params, more = shorten(found.parameters, limit - limit // 2, limit // 2)
    headers = ["parameter", "shape", "norm", "gradient norm", "gradient RMS", "update norm", "update/norm"]
    show(headers, map(_parameter, params), right=[2, 3, 4, 5, 6])
    _more(more, "parameters")


def _update(found: Explanation) -> None:
    clip = found.clip
    _title("4. Clipping", "A gradient whose norm exceeds the bound is scaled down: g <- g min(1, bound / ||g||).")
    if clip is None:
        print("This run does not clip gradients (optimizer.grad_clip is not set).")
    else:
        touched = (
            "unchanged" if clip.after >= clip.before * (1 - 1e-6) else f"a factor of {clip.after / clip.before:.4g}"
        )
        print(f"||g|| = {clip.before:.6g} before, {clip.after:.6g} after: {touched}.")
    rate = "" if found.learning_rate is None else f" The learning rate of this step is {found.learning_rate:.4g}."
    _title("5. Update", f"The optimizer turns gradients into updates, and w <- w + update.{rate}")
    w = found.followed
    print("The weight with the largest gradient:")
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
        "6. After the update",
        "To first order, the update changes the loss by g . update. On the same batch:",
    )
    change = found.loss_after - found.loss
    predicted = f"a change of {change:+.4g}, where {found.expected:+.4g} was predicted"
    print(f"L = {found.loss:.6g} before, {found.loss_after:.6g} after: {predicted}.")


def _checks(found: Explanation) -> None:
    _title("Check", "These figures come from plain autodiff and optax. The train step on the same batch and key gives:")
    worst = sorted(found.checks, key=lambda check: (check.agrees, -check.difference))
    cells = [
        (c.name, f"{c.here:.7g}", f"{c.step:.7g}", f"{c.difference:.1e}", "" if c.agrees else "differs") for c in worst
    ]
    show(["figure", "here", "train step", "difference", ""], cells[:WORST], right=[1, 2, 3])
    largest, verdict = worst[0].difference, "agree" if found.ok else "DISAGREE"
    print(
        f"{len(worst)} figures {verdict} with the train step: the largest relative difference is {largest:.1e}, "
        f"and rounding allows {found.tolerance:.1e}."
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
