"""`jaxprop bench train`: what a train step gets out of a device."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxprop.cli.arguments import OVERRIDE, CodeOption, JsonOption
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
    batch_sizes,
    finish,
    precisions,
    results_path,
)


def bench_train(
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
    processes: ProcessesOption = 1,
    out: OutOption = None,
    force: ForceOption = False,
    markdown: MarkdownOption = None,
    html: HtmlOption = None,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Measure what a train step gets out of the device.

    Time of a step, examples and tokens a second, floating-point operations, the share of the device's own measured
    rate (MFU), memory, the cost of the signals, compile time, and where the time goes.

    The workloads are mlp, cnn, resnet18, resnet50, vit_s, lstm, gpt_10m, gpt2_124m and gpt_1b.
    """
    names = [word for word in targets if not OVERRIDE.match(word)]
    overrides = [word for word in targets if OVERRIDE.match(word)]
    sizes, policies, path = batch_sizes(batch), precisions(precision), results_path("train", out, force)
    from jaxprop.bench.rounds import Plan
    from jaxprop.bench.session import Session
    from jaxprop.bench.train import suite

    found = suite.targets_of(names, overrides, code or ())
    options = suite.Options(
        precisions=policies, batches=sizes, roofline=roofline,
        plan=Plan(seconds=seconds, burst=min(0.5, max(seconds / 6, 0.05)), aim=aim, longest=float("inf")),
    )  # fmt: skip
    if processes > 1:
        words = ["train", *targets, "--seconds", str(seconds), "--aim", str(aim), *["--no-roofline"] * (not roofline)]
        words += [word for one in precision or [] for word in ("--precision", one)]
        words += [word for one in batch or [] for word in ("--batch", one)]
        words += [word for one in code or [] for word in ("--code", one)]
        return apart(words, processes, path, markdown=markdown, html=html, json=json)
    import jax

    arguments = {
        "targets": " ".join(names), "overrides": " ".join(sorted(overrides)) or None,
        "precision": ",".join(policies) or None, "batch": ",".join(batch or []) or None,
        "seconds": seconds, "aim": aim, "roofline": roofline,
    }  # fmt: skip
    with Screen(quiet=json) as screen:
        session = Session("train", arguments, jax.local_devices()[:1], path, screen.show)
        return finish(
            session, lambda: suite.run(session, found, options, screen.say), markdown=markdown, html=html, json=json
        )
