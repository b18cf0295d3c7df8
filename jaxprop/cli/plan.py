"""`jaxprop plan`: what a config needs of devices that are not at hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxprop.cli.arguments import CodeOption, ConfigArgument, JsonOption, OverridesArgument, home, split_config
from jaxprop.cli.output import print_result, run_of
from jaxprop.errors import EXIT_DONE, UsageError

if TYPE_CHECKING:
    from jaxprop.cli.plan_output import Plan
    from jaxprop.config.schema.config import Config
    from jaxprop.tools.plan.topology import Target

NEEDED = "give one of --topology v5e:16x16, --gpu h100:8 and --devices 8"


def plan(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    topology: Annotated[
        str | None, typer.Option("--topology", metavar="TPU", help="TPU generation and shape, such as v5e:16x16")
    ] = None,
    slices: Annotated[int, typer.Option("--slices", min=1, help="number of such slices of TPUs")] = 1,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="GPU", help="NVIDIA GPUs and their number, such as h100:8")
    ] = None,
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="number of devices of this host")] = None,
    search: Annotated[
        bool, typer.Option("--search", help="compile other meshes and policies of run.remat too; the best is first")
    ] = False,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="most that --search compiles")] = 8,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="compile for 1 to 512 devices, the batch growing with them")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", parser=home, help="write one HTML page; implies --scaling"),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0, help="no further program of --search or --scaling is begun after that")
    ] = 30.0,
    full: Annotated[
        bool, typer.Option("--full", help="plan a step of full records, which needs the most memory")
    ] = False,
    json: JsonOption = False,
    code: CodeOption = None,
) -> int:
    """Predict memory, communication and step time on devices that you do not have.

    The train step is compiled for them, and nothing runs. TPUs need libtpu (pip install 'jax[tpu]') and no TPU; for
    NVIDIA GPUs, devices of this host stand in.
    """
    config, changes = split_config(config, overrides)
    _check(topology, slices, gpu, devices)
    from jaxprop.config.load import load

    loaded = load(config, changes, code or ())
    if report is not None and not report.absolute().parent.is_dir():
        raise UsageError(f"--report: there is no folder {report.parent}")
    # Imported late, so that a mistake in the file is reported before jax has loaded.
    from jaxprop.cli import plan_output

    scaling = scaling or report is not None
    target = _target(topology, slices, gpu, devices, many=scaling)
    detail = "full" if full else "rows"
    found = _planned(loaded.config, target, detail, candidates if search else 0, minutes, scaling)
    if json:
        print_result("plan", run_of(loaded.path), plan_output.plain(found), indent=2)
    else:
        plan_output.print_plan(found)
    if report is not None:
        plan_output.write_report(found, report)
    return EXIT_DONE


def _planned(config: Config, target: Target, detail: str, candidates: int, minutes: float, scaling: bool) -> Plan:
    from jaxprop.cli.plan_output import Plan
    from jaxprop.sinks.streams import tell
    from jaxprop.tools.plan.compiled import place
    from jaxprop.tools.plan.scaling import scaling as scale
    from jaxprop.tools.plan.search import search
    from jaxprop.tools.plan.subject import Subject

    subject = Subject(config)
    tell(f"compiling the train step for {target.name}")
    placed = place(subject, target, detail=detail)
    found = Plan(target, config, placed, detail)
    if candidates:
        tried, left = search(subject, target, placed, number=candidates, minutes=minutes, note=tell, detail=detail)
        found = found._replace(tried=tuple(tried), untried=tuple(left))
    if scaling:
        points, missing = scale(subject, target, minutes=minutes, note=tell, detail=detail)
        found = found._replace(scaled=tuple(points), unscaled=tuple(missing))
    return found


def _check(topology: str | None, slices: int, gpu: str | None, devices: int | None) -> None:
    given = [
        name for name, value in (("--topology", topology), ("--gpu", gpu), ("--devices", devices)) if value is not None
    ]
    if not given:
        raise UsageError(f"no devices are named to plan for; {NEEDED}")
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other; {NEEDED}")
    if slices > 1 and topology is None:
        raise UsageError("--slices is a number of slices of TPUs; give --topology, or leave it out")


def _target(topology: str | None, slices: int, gpu: str | None, devices: int | None, *, many: bool) -> Target:
    from jaxprop.tools.plan import topology as devices_of

    if topology is not None:
        return devices_of.tpu(topology, slices)
    if gpu is not None:
        if many:  # made before jax starts, which can make none later
            devices_of.start_on_host(max(devices_of.MOST, _number(gpu)))
        return devices_of.gpu(gpu)
    assert devices is not None
    return devices_of.host(devices)


def _number(gpu: str) -> int:
    count = gpu.rpartition(":")[2]
    return 2 ** math.ceil(math.log2(int(count))) if count.isdecimal() and int(count) else 1
