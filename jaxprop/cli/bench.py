"""`jaxprop bench`: what a device can do, and what a train step gets out of it."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxprop.cli.arguments import OVERRIDE, JsonOption
from jaxprop.cli.bench_check import check
from jaxprop.cli.bench_compare import compare
from jaxprop.cli.bench_history import history
from jaxprop.cli.bench_output import (
    HtmlOption,
    MarkdownOption,
    OutOption,
    Screen,
    batch_sizes,
    finish,
    precisions,
    results_path,
)
from jaxprop.errors import UsageError

bench = typer.Typer(
    help="Measure what a device can do, what a train step gets out of it, and compare results.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DeviceOption = Annotated[
    str, typer.Option("--device", metavar="NUMBER|all", help="which device of JAX; `all` measures each by itself")
]
SecondsOption = Annotated[
    float, typer.Option("--seconds", min=0, help="no further round begins after so many seconds; each figure gets one")
]
AimOption = Annotated[
    float, typer.Option("--aim", min=0, help="half width of an interval, relative, at which a figure is settled")
]


@bench.command("device", short_help="Measure products, memory, transfers, dispatch, compiling and collectives.")
def device(
    device: DeviceOption = "0",
    section: Annotated[
        list[str] | None, typer.Option("--section", help="measure only this section; may be repeated")
    ] = None,
    seconds: SecondsOption = 75.0,
    sustain: Annotated[float, typer.Option("--sustain", min=0, help="seconds of the sustained rate; 0 for none")] = 30,
    contrast: Annotated[
        bool, typer.Option("--contrast", help="measure products of zeros too, which run faster")
    ] = False,
    aim: AimOption = 0.01,
    out: OutOption = None,
    markdown: MarkdownOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> int:
    """Measure what a device can do.

    Matrix products of each dtype over sizes, memory bandwidth over sizes, copies between host and device, the cost of
    a call, compile time, collectives where there are several devices, and the rate that is sustained. Results are
    checked, and every sample is kept in the file of results.
    """
    from jaxprop.bench.device import suite
    from jaxprop.bench.rounds import Plan
    from jaxprop.bench.session import Session

    unknown = sorted(set(section or []) - set(suite.NAMES))
    if unknown:
        raise UsageError(f"--section {unknown[0]}: there is no such section; one of {', '.join(suite.NAMES)}")
    options = suite.Options(
        sections=tuple(section or ()), contrast=contrast, sustain=sustain, plan=Plan(seconds=seconds, aim=aim)
    )
    arguments = {
        "device": device, "sections": ",".join(section or []) or None, "seconds": seconds, "sustain": sustain,
        "contrast": contrast, "aim": aim,
    }  # fmt: skip
    devices = suite.choose(device)
    with Screen(quiet=json) as screen:
        session = Session("device", arguments, devices, results_path("device", out), screen.show)
        return finish(session, lambda: suite.run(session, devices, options), markdown=markdown, html=html, json=json)


@bench.command("train", short_help="Measure the train step of a configuration or of a built-in workload.")
def train(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="[CONFIG|WORKLOAD]...", help="a YAML file with KEY=VALUE overrides, or workloads"),
    ],
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="float32, bfloat16 or float16; may be repeated")
    ] = None,
    batch: Annotated[
        list[str] | None, typer.Option("--batch", metavar="SIZE|auto", help="batch size; auto: the largest that fits")
    ] = None,
    seconds: SecondsOption = 15.0,
    aim: AimOption = 0.01,
    roofline: Annotated[bool, typer.Option(help="measure the step's products by themselves")] = True,
    out: OutOption = None,
    markdown: MarkdownOption = None,
    html: HtmlOption = None,
    json: JsonOption = False,
) -> int:
    """Measure what a train step gets out of the device.

    Time of a step, examples and tokens a second, floating-point operations, the share of the device's own measured
    rate (MFU), memory, the cost of the signals, compile time, and where the time goes.

    The workloads are mlp, cnn, lstm, gpt_10m, gpt2_124m and gpt_1b.
    """
    names = [word for word in targets if not OVERRIDE.match(word)]
    overrides = [word for word in targets if OVERRIDE.match(word)]
    sizes, policies = batch_sizes(batch), precisions(precision)
    from jaxprop.bench.rounds import Plan
    from jaxprop.bench.session import Session
    from jaxprop.bench.train import suite

    found = suite.targets_of(names, overrides)
    options = suite.Options(
        precisions=policies, batches=sizes, roofline=roofline,
        plan=Plan(seconds=seconds, burst=min(0.5, max(seconds / 6, 0.05)), aim=aim, longest=float("inf")),
    )  # fmt: skip
    import jax

    arguments = {
        "targets": " ".join(targets), "precision": ",".join(policies) or None, "batch": ",".join(batch or []) or None,
        "seconds": seconds, "aim": aim, "roofline": roofline,
    }  # fmt: skip
    with Screen(quiet=json) as screen:
        session = Session("train", arguments, jax.local_devices()[:1], results_path("train", out), screen.show)
        return finish(
            session, lambda: suite.run(session, found, options, screen.say), markdown=markdown, html=html, json=json
        )


bench.command("compare", short_help="Compare two files of results row by row.")(compare)
bench.command("history", short_help="Draw each figure over all files of results in a folder.")(history)
bench.command("check", short_help="Check files of results before they are published.")(check)
