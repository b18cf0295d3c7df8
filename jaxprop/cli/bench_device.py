"""`jaxprop bench device`: what a device can do."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxprop.cli.arguments import JsonOption
from jaxprop.cli.bench_output import (
    AimOption,
    ForceOption,
    HtmlOption,
    MarkdownOption,
    OutOption,
    ProcessesOption,
    Screen,
    SecondsOption,
    apart,
    finish,
    results_path,
)
from jaxprop.errors import UsageError

DeviceOption = Annotated[
    str, typer.Option("--device", metavar="NUMBER|all", help="which device of JAX; `all` measures each by itself")
]


def bench_device(
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
    processes: ProcessesOption = 1,
    out: OutOption = None,
    force: ForceOption = False,
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

    path = results_path("device", out, force)
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
    if processes > 1:
        words = ["device", "--device", device, *(word for one in section or [] for word in ("--section", one))]
        words += ["--seconds", str(seconds), "--sustain", str(sustain), "--aim", str(aim), *["--contrast"] * contrast]
        return apart(words, processes, path, markdown=markdown, html=html, json=json)
    devices = suite.choose(device)
    with Screen(quiet=json) as screen:
        session = Session("device", arguments, devices, path, screen.show)
        return finish(session, lambda: suite.run(session, devices, options), markdown=markdown, html=html, json=json)
