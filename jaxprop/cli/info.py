"""`jaxprop info`: shows what a config builds, without training it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import CodeOption, ConfigArgument, JsonOption, OverridesArgument, split_config
from jaxprop.cli.output import print_result, run_of
from jaxprop.cli.paths import in_few
from jaxprop.cli.tables import show, size
from jaxprop.errors import EXIT_DONE

if TYPE_CHECKING:
    from jaxprop.config.schema.config import Config
    from jaxprop.run.memory import Tried
    from jaxprop.tools.info import Cost, Description, Layer, Moved
    from jaxprop.train.memory import Buffer

UNKNOWN = "not reported by this backend"
BUFFERS = 12  # rows of temporaries
LISTED = 24  # lines of parameters in a row of optimizers
NUMBERS = {"highest learning rate", "by width", "weight decay", "parameters"}


def info(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    memory: Annotated[
        bool,
        typer.Option("--memory", help="show what a step keeps in memory, and which overrides lower it; compiles each"),
    ] = False,
    mesh: Annotated[
        str | None,
        typer.Option(
            "--mesh",
            metavar="SIZES",
            help="show where each parameter lies on a mesh such as fsdp=4,tensor=2, and what a device holds; it need "
            "not be there",
        ),
    ] = None,
    json: JsonOption = False,
    code: CodeOption = None,
) -> int:
    """Show the layers, shapes, parameters, FLOPs and memory of a model."""
    config, changes = split_config(config, overrides)
    from jaxprop.config.load import load

    loaded = load(config, changes, code or ())
    if mesh is not None:
        return _placement(loaded.config, mesh, run_of(loaded.path), json)
    if memory:
        return _memory(loaded.config, run_of(loaded.path), json)
    # Imported late, so that a mistake in the file is reported before jax has loaded.
    from jaxprop.tools.info import describe

    found = describe(loaded.config)
    if json:
        print_result("info", run_of(loaded.path), found._asdict(), indent=2)
    else:
        _print(found)
    return EXIT_DONE


def _print(found: Description) -> None:
    total = ("total", "", "", f"{found.parameters:,}")
    devices = [(d.platform, d.kind, str(d.number), size(d.memory_bytes, UNKNOWN)) for d in found.devices]
    data = [(_words(name), f"{count:,}") for name, count in found.data.items()]
    reference = [(_words(name), f"{value:.4g}") for name, value in found.reference.items()]
    show(["layer", "shapes", "dtype", "parameters"], [*map(_layer, found.layers), total], right=[3])
    _optimizers(found.optimizers)
    show(["state", "size"], _state(found), right=[1])
    show(["one train step", ""], [*_gradient(found), *_cost(found.cost), *_products(found)], right=[1])
    show(["platform", "devices", "count", "memory of each"], devices, right=[2, 3])
    show(["data", ""], data, right=[1])
    show(["reference", ""], reference, right=[1])


def _optimizers(found: Sequence[Moved]) -> None:
    """Which parameters are moved by what; columns in which nothing differs from the usual are left out."""
    columns = {
        "optimizer": [one.optimizer for one in found],
        "group": [one.group or "" for one in found],
        "highest learning rate": ["" if one.lr is None else f"{one.lr:.4g}" for one in found],
        "by width": ["" if one.by_width == 1 else f"{one.by_width:.4g}" for one in found],
        "weight decay": ["" if not one.weight_decay else f"{one.weight_decay:.4g}" for one in found],
        "parameters": [f"{one.parameters:,}" for one in found],
        "which": [_listed(one.paths) if len(found) > 1 else "all" for one in found],
    }
    said = {name: cells for name, cells in columns.items() if any(cells)}
    show(list(said), zip(*said.values(), strict=True), right=[i for i, name in enumerate(said) if name in NUMBERS])


def _listed(paths: Sequence[str]) -> str:
    lines = in_few(paths)
    more = [f"and {len(lines) - LISTED} more; --json has all of them"] if len(lines) > LISTED else []
    return "\n".join([*lines[:LISTED], *more])


def _memory(config: Config, run: Path | None, json: bool) -> int:
    from jaxprop.run.compose import compose
    from jaxprop.run.memory import advise, predicted
    from jaxprop.sinks.streams import tell
    from jaxprop.train.memory.predict import PARTS

    tell("compiling the train step")
    experiment = compose(config)
    found = predicted(experiment)
    if found is None:
        tell(f"memory is {UNKNOWN}")
    elif not json:
        parts = [(PARTS[name], size(count)) for name, count in found.parts.items()]
        show(["one train step, each device", "at the peak"], [*parts, ("all", size(found.peak))], right=[1])
        headers = ["largest temporaries at the peak", "operation", "array", "line", "size"]
        show(headers, map(_buffer, found.buffers[:BUFFERS]), right=[4])
    tried = () if found is None else advise(config, found, experiment.sources, tell)
    if json:
        print_result("info", run, {"memory": found, "tried": tried}, indent=2)
    elif found is not None:
        show(["override", "peak with it", "saves", "", ""], [_tried(one, found.peak) for one in tried], right=[1, 2, 3])
        if not any(one.helps for one in tried):
            print("No single override lowers the peak by more than 1 %.")
    return EXIT_DONE


def _placement(config: Config, mesh: str, run: Path | None, json: bool) -> int:
    from jaxprop.tools.placement import place, read_mesh

    found = place(config, read_mesh(mesh))
    if json:
        print_result("info", run, {"placement": found}, indent=2)
        return EXIT_DONE
    axes = ", ".join(f"{name} {count}" for name, count in found.mesh.items())
    rows = [
        (one.path, str(list(one.shape)), ", ".join("+".join(names) or "-" for names in one.spec), size(one.bytes))
        for one in found.parameters
    ]
    show(["parameter", "shape", f"split over ({axes})", "each device"], rows, right=[3])
    names = {"params": "parameters", "opt_state": "optimizer state", "ema": "moving average", "extras": "extras"}
    parts = [(names[part], size(total), size(each)) for part, (total, each) in found.bytes.items() if total]
    total, each = (sum(sizes[i] for sizes in found.bytes.values()) for i in (0, 1))
    show(["state", "in all", "each device"], [*parts, ("all", size(total), size(each))], right=[1, 2])
    return EXIT_DONE


def _tried(one: Tried, peak: int) -> tuple[str, ...]:
    if one.peak is None or one.saving is None:
        return one.line, "", "", "", one.problem
    saving = size(one.saving) if one.saving >= 0 else f"-{size(-one.saving)}"
    return one.line, size(one.peak), saving, f"{one.saving / peak:.0%}", "" if one.helps else "does not help"


def _buffer(buffer: Buffer) -> tuple[str, ...]:
    array = buffer.shape if buffer.number == 1 else f"{buffer.number} x {buffer.shape}"
    return buffer.layer or f"({buffer.part})", buffer.operation, array, buffer.place, size(buffer.size)


def _layer(layer: Layer) -> tuple[str, ...]:
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in layer.shapes.items())
    return layer.name, shapes, ", ".join(layer.dtypes), f"{layer.parameters:,}"


def _state(found: Description) -> Iterator[tuple[str, str]]:
    names = {"params": "parameters", "opt_state": "optimizer state", "ema": "moving average", "extras": "extras"}
    yield from ((names[name], size(count)) for name, count in found.bytes.items() if count)
    if found.adapted:
        yield f"adapters of {len(found.adapted)} weights", f"{sum(found.adapted.values()):,}"
        yield "parameters trained", f"{found.parameters - found.frozen:,}"
    if found.frozen:
        yield "parameters frozen", f"{found.frozen:,}"


def _cost(cost: Cost) -> Iterator[tuple[str, str]]:
    flops = UNKNOWN if cost.flops is None else f"{'at least ' if cost.loops else ''}{cost.flops:,.0f}"
    yield f"floating-point operations{' (loops counted once)' if cost.loops else ''}", flops
    yield "state and batch, each device", size(cost.argument_bytes, UNKNOWN)
    yield "temporaries, each device", size(cost.temporary_bytes, UNKNOWN)
    yield "all memory, each device", size(cost.peak_bytes, UNKNOWN)


def _gradient(found: Description) -> Iterator[tuple[str, str]]:
    if found.gradient is not None:
        yield "gradient", found.gradient


def _products(found: Description) -> Iterator[tuple[str, str]]:
    for dtype, count in found.products.items():
        yield f"products and convolutions of {dtype}", f"{count:,}"


def _words(name: str) -> str:
    return name.replace("_", " ")
