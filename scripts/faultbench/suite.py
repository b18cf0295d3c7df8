"""The suite: which runs there are, their records on disk or in memory, and what the watch makes of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from faultbench import faults, score
from faultbench.faults import (
    FAMILIES,
    MODELS,
    OBSERVED,
    OPTIMIZERS,
    QUIET,
    SEEDS,
    SEVERITIES,
    STEPS,
    TREATED,
    Plan,
    Program,
    family_of,
)
from faultbench.run import RARE, Records, Simulator, Viewer
from jaxprop.core.measurements import SCALARS, Layout
from jaxprop.health import Watch

RATE_FAMILIES = ("no_warmup", "rate_ramp", "rate_start", "rate_x40")
LIKE_RATE = ("label_shift", "outlier_batch")  # what a fault of a rate that is not known looks like


class Options(NamedTuple):
    """What to run.

    Args:
      families, models: only these.
      optimizers: only these.
      seeds: of each severity.
      first: the first seed. Thresholds were chosen on those below 200.
      every: steps between the full records that the watch is shown.
      opening: whether it is shown one of step 1.
      healthy: whether to run the healthy runs.
      rescue: whether to run again what has diverged.
      save: folder for the records, or None.
    """

    families: tuple[str, ...] = (*FAMILIES, *QUIET)
    models: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = OPTIMIZERS
    seeds: int = SEEDS
    first: int = 0
    every: int = RARE
    opening: bool = True
    healthy: bool = True
    rescue: bool = True
    save: str | None = None


class Job(NamedTuple):
    """The records of one family in one program, or of healthy runs (`family` is `healthy` or `twin`).

    Args:
      family, program: what ran.
      records: of the runs.
      cases: what was planted in each; empty for healthy runs.
      twins: final loss of each run's undisturbed twin.
      every: steps between the full records that the watch is shown.
      opening: whether it is shown one of step 1.
    """

    family: str
    program: Program
    records: Records
    cases: list[score.Case]
    twins: list[float]
    every: int = RARE
    opening: bool = True

    @property
    def viewer(self) -> Viewer:
        return Viewer(self.records.layout, self.program.precision == "float16", every=self.every, opening=self.opening)


def groups(options: Options) -> list[list[Program]]:
    """Programs that share an undisturbed twin, and so a worker; the slowest first."""
    found: dict[Program, list[Program]] = {}
    for family in options.families:
        for program in faults.programs(family):
            if program.model in (options.models or (program.model,)) and program.optimizer in options.optimizers:
                found.setdefault(program.usual, [])
                if program not in found[program.usual]:
                    found[program.usual].append(program)
    if options.healthy:
        for model in MODELS:
            for optimizer in OPTIMIZERS:
                if model in (options.models or MODELS) and optimizer in options.optimizers:
                    found.setdefault(Program(model, optimizer), [])
    slow = ("post_ln", "transformer", "cnn", "long_rnn")
    order = sorted(found, key=lambda p: (slow.index(p.model) if p.model in slow else 9, -len(found[p])))
    return [[usual, *(p for p in found[usual] if p != usual)] for usual in order]


def work(task: tuple[list[Program], Options]) -> list[dict[str, Any]]:
    """Runs everything of one group of programs and returns one result a run."""
    programs, options = task
    usual, results = programs[0], []
    simulator = Simulator(usual)
    runs = SEVERITIES * options.seeds
    twin = simulator.run(faults.undisturbed(usual, options.first + np.arange(runs)), STEPS)
    losses = twin.packed[..., SCALARS.index("loss")]
    # More twins than seeds were run, to fill the compiled width; those that have a faulty twin are listened to.
    jobs = [
        Job("twin", usual, Records(twin.packed[: options.seeds], twin.layout, twin.leaked[: options.seeds]), [], [])
    ]
    if options.healthy and usual.precision == "float32" and usual.model in MODELS:
        plan = faults.healthy(usual, runs, first=options.first)
        jobs.append(Job("healthy", usual, simulator.run(plan, faults.HEALTHY), [], []))
    for job in (job._replace(every=options.every, opening=options.opening) for job in jobs):
        keep(job, options)
        results += judged(job)
    for program in programs:
        simulator = simulator if program == usual else Simulator(program)
        sick: list[tuple[dict[str, Any], Plan]] = []
        for family in options.families:
            if program not in faults.programs(family):
                continue
            job, plan = faulty(family, simulator, losses, options.seeds, options.first)
            job = job._replace(every=options.every, opening=options.opening)
            keep(job, options)
            found = judged(job)
            results += found
            sick += [
                (result, jax.tree.map(lambda x, r=r: x[r], plan))
                for r, result in enumerate(found)
                if result["case"]["onset"] is not None
                and result["case"]["seed"] < options.first + TREATED
                and family in FAMILIES
            ]
        if options.rescue and sick:
            treat(program, job.viewer, sick, runs)
    return results


def faulty(family: str, simulator: Simulator, twins: np.ndarray, seeds: int, first: int) -> tuple[Job, Plan]:
    """Runs a family in a program and says of each run when it diverged; `twins` are those of the seeds from `first`."""
    program = simulator.program
    plan, planted, layers = faults.planted(family, program, seeds, first)
    records = simulator.run(plan, OBSERVED)
    loss, skipped = (records.packed[..., SCALARS.index(name)] for name in ("loss", "skipped"))
    cases = []
    for case, layer in zip(planted, layers, strict=True):
        own, twin, start = loss[case.r], twins[case.seed - first], case.start + 1
        broken = np.flatnonzero(skipped[case.r][start - 1 :] > 0)
        # With a dynamic loss scale, overflows are its way of finding the scale.
        broken = broken if program.precision == "float32" else np.flatnonzero(~np.isfinite(own[start - 1 :]))
        usual = score.usual_loss(own, start, twin)
        cases.append(
            score.Case(
                family=family,
                kind=family_of(family).kind,
                program=program.name,
                severity=case.severity,
                seed=case.seed,
                layer=layer,
                start=start,
                onset=score.divergence(own, start, usual),
                nonfinite=int(broken[0]) + start if len(broken) else None,
                leaked=bool(records.leaked[case.r].any()),
                harmless=score.harmless(own, twin, start),
            )
        )
    return Job(family, program, records, cases, [score.final(twins[case.seed - first]) for case in planted]), plan


# -- records on disk ----------------------------------------------------------------------------


def keep(job: Job, options: Options) -> None:
    """Writes a job's records, where they are asked for."""
    if options.save is None:
        return
    meta = {
        "family": job.family,
        "program": list(job.program),
        "layout": [job.records.layout.metrics, job.records.layout.layers, job.records.layout.sizes,
                   job.records.layout.fans, job.records.layout.taps, sorted(job.records.layout.absent)],
        "cases": [list(case) for case in job.cases],
        "twins": job.twins,
    }  # fmt: skip
    path = Path(options.save) / f"{job.family}__{job.program.name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, packed=job.records.packed, leaked=job.records.leaked, meta=np.array(json.dumps(meta)))


def load(path: Path) -> Job:
    """Reads what `keep` wrote."""
    with np.load(path) as held:
        meta = json.loads(str(held["meta"]))
        metrics, layers, sizes, fans, taps, absent = meta["layout"]
        fans, taps = (tuple((first, second) for first, second in both) for both in (fans, taps))
        layout = Layout(tuple(metrics), tuple(layers), tuple(sizes), fans, True, taps, frozenset(absent))
        records = Records(held["packed"], layout, held["leaked"])
    cases = [score.Case(*case) for case in meta["cases"]]
    program = (
        Program(*meta["program"][:-1], tuple(meta["program"][-1]))
        if len(meta["program"]) > 4
        else Program(*meta["program"])
    )
    return Job(meta["family"], program, records, cases, meta["twins"])


def replay(task: tuple[Path, int, bool]) -> list[dict[str, Any]]:
    """What the watch makes of saved records: path, steps between full ones, and whether one of step 1 is among them."""
    path, every, opening = task
    return judged(load(path)._replace(every=every, opening=opening))


# -- the watch ----------------------------------------------------------------------------------


def judged(job: Job) -> list[dict[str, Any]]:
    """One result a run: of a healthy one its alerts, of a faulty one the verdict too."""
    if not job.cases:
        return [
            {"family": job.family, "program": job.program.name, "run": r, "steps": packed.shape[0],
             "broken": broken(packed), "alerts": listen(job.viewer, packed, packed.shape[0])}
            for r, packed in enumerate(job.records.packed)
        ]  # fmt: skip
    return [
        judged_case(job.viewer, job.records.packed[r], case, twin)
        for r, (case, twin) in enumerate(zip(job.cases, job.twins, strict=True))
    ]


def broken(packed: np.ndarray) -> bool:
    """Whether a run that should be healthy was not: it diverged, by the definition, at some time."""
    loss = packed[:, SCALARS.index("loss")]
    starts = range(score.BEFORE, len(loss) - score.PERSIST, 50)
    return any(score.divergence(loss, at + 1, score.usual_loss(loss, at + 1, loss)) for at in starts)


def judged_case(viewer: Viewer, packed: np.ndarray, case: score.Case, twin: float) -> dict[str, Any]:
    """The verdict on one faulty run; for faults of the rate, and those like them, also with it hidden."""
    causes = family_of(case.family).causes
    until = min(max(score.deadline(case) + score.ACT_WITHIN, case.nonfinite or 0), len(packed))
    until = len(packed) if case.kind == "quiet" else until
    alerts = listen(viewer, packed, until)
    result = {
        "family": case.family,
        "program": case.program,
        "case": case._asdict(),
        "alerts": alerts[:20],
        "verdict": score.judge(case, alerts, causes)._asdict(),
        "seen_nonfinite": case.nonfinite and any(case.start <= a["step"] <= case.nonfinite for a in alerts),
        "twin_final": twin,
    }
    if case.family in (*RATE_FAMILIES, *LIKE_RATE):
        hidden = listen(viewer._replace(hide_rate=True), packed, until)
        result["hidden"] = score.judge(case, hidden, causes)._asdict()
    return result


def listen(viewer: Viewer, packed: np.ndarray, until: int) -> list[dict[str, Any]]:
    """All alerts of a run up to a step."""
    watch = Watch(viewer.full.layers, source="yaml", run=viewer.known)
    return [
        {"step": a.step, "kind": a.kind, "layer": a.layer, "severity": a.severity, "cause": a.cause,
         "value": a.value, "threshold": a.threshold, "since": a.since}
        for step in range(1, until + 1)
        for a in watch.update(step, viewer.at(packed[step - 1], step))
    ]  # fmt: skip


# -- rescue -------------------------------------------------------------------------------------


def treat(program: Program, viewer: Viewer, sick: Sequence[tuple[dict[str, Any], Plan]], runs: int) -> None:
    """Runs again what has diverged, and notes in each result whether it was rescued."""
    from faultbench.rescue import Ward

    ward = Ward(program)
    for batch in batched(sick, runs):
        filled = [plan for _, plan in batch] + [batch[0][1]] * (runs - len(batch))
        plan = jax.tree.map(lambda *rows: np.stack(rows), *filled)
        for (result, _), outcome in zip(batch, ward.treat(plan, viewer, len(batch)), strict=True):
            result["rescue"] = outcome | {"rescued": score.rescued(outcome["final"], result["twin_final"])}


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in batches, the last of which may be smaller."""
    for i in range(0, len(items), size):
        yield items[i : i + size]
