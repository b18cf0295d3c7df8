"""The benchmark's tables, in Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from faultbench.faults import CALIBRATION, FAMILIES, QUIET, TREATED
from faultbench.score import SUDDEN, percentile, share

Result = dict[str, Any]
# Planted in the first weights, in the number format, or anew in every step: a rate or a rollback does not reach them.
STAYS = ("bad_init", "logit_drift", "no_loss_scaling")
HALVES = ("calibration", "held out", "all")


def tables(results: Sequence[Result]) -> str:
    """All tables of a suite's results."""
    parts = [overall(results), by_family(results), quiet(results), alarms(results), notes(results)]
    return "\n\n".join(part for part in parts if part)


def faulty(results: Sequence[Result], half: str = "all") -> list[Result]:
    """The faulty runs of one half of the families."""
    wanted = {"calibration": CALIBRATION, "held out": FAMILIES.keys() - CALIBRATION, "all": FAMILIES.keys()}[half]
    return [result for result in results if result["family"] in wanted]


def healthy(results: Sequence[Result], half: str = "all") -> list[Result]:
    """The healthy runs, less those that diverged all the same: every second one of them is for calibration."""
    runs = [result for result in undisturbed(results) if not result["broken"]]
    return runs if half == "all" else [run for run in runs if run["run"] % 2 == HALVES.index(half)]


def undisturbed(results: Sequence[Result]) -> list[Result]:
    """The runs that nothing was planted in."""
    return [result for result in results if result["family"] in ("healthy", "twin")]


def verdicts(results: Sequence[Result], field: str) -> list[Any]:
    """One field of every verdict."""
    return [result["verdict"][field] for result in results]


def leads(results: Sequence[Result]) -> list[int]:
    """Steps of warning before each divergence; 0 where there was none."""
    return [result["verdict"]["lead"] or 0 for result in results if result["case"]["onset"] is not None]


def gradual(results: Sequence[Result], sooner: bool = False) -> list[Result]:
    """Gradual faults that diverged 20 steps after they began or later; or those that did `sooner`: no time to warn."""
    diverged = [r for r in results if r["case"]["kind"] == "gradual" and r["case"]["onset"] is not None]
    return [r for r in diverged if (r["case"]["onset"] - r["case"]["start"] < SUDDEN) == sooner]


def overall(results: Sequence[Result]) -> str:
    """The table of the figures against their targets."""

    def slow(found: Sequence[Result]) -> list[int]:
        return leads(gradual(found))

    def broken(found: Sequence[Result]) -> list[Result]:
        return [result for result in found if result["case"]["nonfinite"] is not None]

    rows: list[tuple[str, Callable[[Sequence[Result]], str], str]] = [
        ("faults detected", lambda f: percent(share(verdicts(f, "detected"))), "≥ 95 %"),
        ("non-finite steps: seen by then", lambda f: percent(share(r["seen_nonfinite"] for r in broken(f))), "100 %"),
        ("non-finite steps: state kept", lambda f: percent(share(not r["case"]["leaked"] for r in broken(f))), "100 %"),
        ("gradual faults that diverge: median lead, steps", lambda f: number(percentile(slow(f), 50)), "≥ 50"),
        ("gradual faults that diverge: 10th percentile", lambda f: number(percentile(slow(f), 10)), "≥ 10"),
        ("right cause first", lambda f: percent(share(verdicts(f, "cause"))), "≥ 80 %"),
        ("wrong advice first, of runs with an alert", lambda f: percent(wrong(f)), "≤ 5 %"),
        ("right layer", lambda f: percent(share(verdicts(f, "layer"))), "≥ 90 %"),
        (f"diverged runs rescued, of {TREATED} seeds", lambda f: percent(share(rescues(f))), "≥ 80 %"),
    ]  # fmt: skip
    lines = [[what, *(figure(faulty(results, half)) for half in HALVES), target] for what, figure, target in rows]
    for severity, target in (("act", "≤ 0.2"), ("advice", "≤ 1")):
        rates = [number(rate(healthy(results, half), severity), 2) for half in HALVES]
        lines.append([f"false alarms in 1,000 healthy steps: {severity}", *rates, target])
    return markdown(["what", *HALVES, "target"], lines)


def wrong(results: Sequence[Result]) -> float:
    """Share of the runs with an alert in which the first advice is wrong."""
    told = [result["verdict"] for result in results if result["verdict"]["spoke"]]
    return share(not verdict["cause"] for verdict in told)


def quiet(results: Sequence[Result]) -> str:
    """One row a family of runs in which nothing is wrong, though it may look so: each alert is wrong advice."""
    lines = []
    for family in QUIET:
        found = [result for result in results if result["family"] == family]
        if found:
            alarmed = [result for result in found if result["alerts"]]
            kinds = Counter(alert["kind"] for result in alarmed for alert in result["alerts"])
            acts = sum(any(alert["severity"] == "act" for alert in result["alerts"]) for result in alarmed)
            said = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(4))
            lines.append([family, str(len(found)), str(len(alarmed)), str(acts), said or "-"])
    everything = [result for result in results if result["family"] in FAMILIES or result["family"] in QUIET]
    note = f"Wrong advice first, of all runs with an alert, these among them: {percent(wrong(everything))}."
    return (
        markdown(["nothing is wrong", "runs", "with an alert", "to act", "alerts"], lines) + f"\n\n{note}"
        if lines
        else ""
    )


def rescues(results: Sequence[Result]) -> list[bool]:
    """Whether each run that diverged was rescued."""
    return [result["rescue"]["rescued"] for result in results if "rescue" in result]


def by_family(results: Sequence[Result]) -> str:
    """One row a family."""
    lines = []
    for family in FAMILIES:
        found = [result for result in results if result["family"] == family]
        if not found:
            continue
        diverged = [result for result in found if result["case"]["onset"] is not None]
        lines.append([
            family, FAMILIES[family].kind, "C" if family in CALIBRATION else "H", str(len(found)), str(len(diverged)),
            str(sum(result["case"]["harmless"] for result in found)),
            percent(share(verdicts(found, "detected"))), number(percentile(leads(found), 50)),
            number(percentile(leads(found), 10)), percent(share(verdicts(found, "cause"))),
            percent(share(verdicts(found, "layer"))), percent(share(rescues(found))),
        ])  # fmt: skip
    head = [
        "family",
        "kind",
        "half",
        "runs",
        "diverge",
        "harmless",
        "detected",
        "lead",
        "p10",
        "cause",
        "layer",
        "rescued",
    ]
    return markdown(head, lines)


def rate(runs: Sequence[Result], severity: str, kind: str | None = None) -> float:
    """Alerts of a severity in 1,000 steps of healthy runs."""
    steps = sum(run["steps"] for run in runs)
    found = sum(a["severity"] == severity and kind in (None, a["kind"]) for run in runs for a in run["alerts"])
    return 1000 * found / steps if steps else math.nan


def alarms(results: Sequence[Result]) -> str:
    """False alarms by kind."""
    runs = healthy(results)
    if not runs:
        return ""
    kinds = Counter((a["kind"], a["severity"]) for run in runs for a in run["alerts"])
    lines = [[kind, severity, number(rate(runs, severity, kind), 3)] for (kind, severity), _ in kinds.most_common()]
    steps = sum(run["steps"] for run in runs)
    return f"{steps:,} healthy steps\n\n" + markdown(["alert", "severity", "in 1,000 steps"], lines)


def notes(results: Sequence[Result]) -> str:
    """What the tables do not say."""
    found, lines = faulty(results), []
    hidden = [result for result in found if "hidden" in result]
    lead = [result["hidden"]["lead"] or 0 for result in gradual(hidden)]
    for name, of_rate in (("the learning rate", True), ("labels and single batches", False)):
        judged = [
            result["hidden"] for result in hidden if ("rate_too_high" in FAMILIES[result["family"]].causes) == of_rate
        ]
        if judged:
            lines.append(
                f"- Faults of {name} with the rate hidden from the watch: "
                f"{percent(share(v['detected'] for v in judged))} detected, {first_advice(judged)}"
                + (f"; median lead {number(percentile(lead, 50))}." if of_rate else ".")
            )
    if found:
        moved = [result for result in found if not result["case"]["harmless"]]
        lines.append(
            f"- {len(found) - len(moved)} of {len(found)} faults left the loss within 5 % of the undisturbed twin's; "
            f"of the others {percent(share(verdicts(moved, 'detected')))} were detected."
        )
    if quick := gradual(found, sooner=True):
        lines.append(
            f"- {len(quick)} faults of a gradual kind diverged within {SUDDEN} steps, as sudden ones do: "
            f"median lead {number(percentile(leads(quick), 50))}; they are not among the gradual ones."
        )
    skipped = [r for r in found if "rescue" in r and r["family"] != "nan_batch"]
    if skipped:
        stay = [r for r in skipped if r["family"] in STAYS]
        lines.append(
            f"- Rescued without the NaN batches, which the step skips: {percent(share(rescues(skipped)))}; of faults "
            f"that no response undoes ({', '.join(STAYS)}) {percent(share(rescues(stay)))}, of the others "
            f"{percent(share(rescues([r for r in skipped if r['family'] not in STAYS])))}."
        )
    runs = undisturbed(results)
    broken = sum(run["broken"] for run in runs)
    lines.append(f"- {broken} of {len(runs)} undisturbed runs diverged by the same definition, and count as neither.")
    return "\n".join(lines)


def first_advice(judged: Sequence[Mapping[str, Any]]) -> str:
    """How often the first advice was right, left open which of the two it is, or was wrong."""
    spoke = [verdict for verdict in judged if verdict["spoke"]]
    left_open = share(verdict["spoke"]["cause"] == "rate_or_data" for verdict in spoke)
    right = share(verdict["cause"] for verdict in spoke)
    shares = {"right": right, "rate or data": left_open, "wrong": 1 - right - left_open}
    return "first advice " + ", ".join(f"{name} {percent(value)}" for name, value in shares.items())


def percent(value: float) -> str:
    """As `97.5 %`."""
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def number(value: float, digits: int = 0) -> str:
    """Rounded."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
