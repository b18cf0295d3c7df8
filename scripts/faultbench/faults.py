"""The planted faults: which values a run's plan holds, as data, so that one compiled program runs them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from faultbench.models import ARCHITECTURES

STEPS = 1000  # of a run: its schedule, its undisturbed twin, and what a rescue has to come to
OBSERVED = 650  # of them are looked at when nothing is done about the fault
HEALTHY = 1000  # steps of a healthy run
LENGTH = 2000  # of every plan, whatever is used of it: one shape compiles once
WARMUP = 50
SEEDS = 10
TREATED = 5  # seeds of each severity whose divergences are run again: that takes as long as all the rest
SEVERITIES = 3
EPSILONS = (1e-2, 1e-1, 1.0)
DECAYS = (0.9, 0.99, 0.9999)
MODELS = ("mlp", "cnn", "rnn", "transformer")
OPTIMIZERS = ("sgd", "adam")


class Program(NamedTuple):
    """What is compiled once: a model, an optimizer, a precision and the static constants of its signals.

    Args:
      model: name in `ARCHITECTURES`.
      optimizer: `sgd` (with momentum 0.9) or `adam`.
      precision: `float32` or `float16`.
      eps: Adam's epsilon, which the signals are told too.
      b2: Adam's decay of the second moment.
      frozen: layers that the optimizer freezes.
    """

    model: str
    optimizer: str
    precision: str = "float32"
    eps: float = 1e-8
    b2: float = 0.999
    frozen: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers, in the order of the parameters."""
        return ARCHITECTURES[self.model].layers

    @property
    def name(self) -> str:
        """Such as `mlp-adam`."""
        rest = [self.precision] * (self.precision != "float32") + [f"eps{self.eps:g}"] * (self.eps != 1e-8)
        rest += [f"b2={self.b2:g}"] * (self.b2 != 0.999) + [f"frozen={'+'.join(self.frozen).replace('/', '.')}"] * bool(
            self.frozen
        )
        return "-".join([self.model, self.optimizer, *rest])

    @property
    def usual(self) -> Program:
        """The program of the undisturbed twin."""
        return self._replace(eps=1e-8, b2=0.999, frozen=())


class Plan(NamedTuple):
    """What happens in R runs, as data. `[R, S]` by the run's own step, `[R, P]` by position in the stream, which
    a rollback does not turn back.

    Args:
      seed: `[R]`, of data, initial weights and batches.
      rate: `[R, S]`, learning rate.
      outlier: `[R, P]`, what inputs are multiplied by, less 1; for tokens, share of sequences that are noise.
      nans: `[R, P]`, number of examples that are NaN, or outside the vocabulary.
      shift: `[R, P]`, share of examples whose label is another class.
      size: `[R, P]`, share of the batch that counts.
      active: `[R, P]`, 1 where `push` and `grow` act: they are glitches, which pass, or do not.
      keep_from: `[R]`, step from which updates are multiplied by `keep`.
      keep, cut, push, grow, gain: `[R, L]`, by layer: factor on updates; factor on gradients; added to biases in each
        step; factor on kernels added in each step; factor on initial kernels.
      dropout: `[R]`, share of the last hidden activations dropped.
      cotangent: `[R]`, factor on the loss before differentiation, which the learning rate of SGD makes up for.
      loss_scale: `[R]`, first loss scale; used in float16.
    """

    seed: np.ndarray
    rate: np.ndarray
    outlier: np.ndarray
    nans: np.ndarray
    shift: np.ndarray
    size: np.ndarray
    active: np.ndarray
    keep_from: np.ndarray
    keep: np.ndarray
    cut: np.ndarray
    push: np.ndarray
    grow: np.ndarray
    gain: np.ndarray
    dropout: np.ndarray
    cotangent: np.ndarray
    loss_scale: np.ndarray


def schedule(peak: float, steps: int, warmup: int = WARMUP, end: float = 0.2) -> np.ndarray:
    """Linear warmup, then a cosine down to a fifth, `[steps]`."""
    t = np.arange(steps)
    rise = (t + 1) / warmup if warmup else np.ones(steps)
    fall = (t - warmup) / max(steps - warmup, 1)
    return peak * np.where(t < warmup, rise, end + (1 - end) * 0.5 * (1 + np.cos(np.pi * fall)))


def undisturbed(program: Program, seeds: np.ndarray, steps: int = STEPS) -> Plan:
    """The plan of runs with nothing wrong; a fault changes some of its arrays in place."""
    runs, layers = len(seeds), program.layers
    architecture = ARCHITECTURES[program.model]
    rate = np.full(LENGTH, np.nan, np.float32)
    rate[:steps] = schedule(architecture.rates[program.optimizer], steps)
    rate[steps:] = rate[steps - 1]

    def by_run(value: float, *shape: int) -> np.ndarray:
        return np.full((runs, *shape), value, np.float32)

    return Plan(
        seed=np.asarray(seeds, np.int32),
        rate=np.tile(rate, (runs, 1)),
        outlier=by_run(0, LENGTH),
        nans=by_run(0, LENGTH),
        shift=by_run(0, LENGTH),
        size=by_run(1, LENGTH),
        active=by_run(0, LENGTH),
        keep_from=np.zeros(runs, np.int32),
        keep=by_run(1, len(layers)),
        cut=by_run(1, len(layers)),
        push=by_run(0, len(layers)),
        grow=by_run(0, len(layers)),
        gain=by_run(1, len(layers)),
        dropout=by_run(0),
        cotangent=by_run(1),
        loss_scale=by_run(2.0**15),
    )


class Case(NamedTuple):
    """One run to plant a fault into: row of the plan, severity (0 to 2), seed, and first step counted from 0."""

    r: int
    severity: int
    seed: int
    start: int


Plant = Callable[[Plan, Case, Program], "str | None"]


class Family(NamedTuple):
    """One kind of fault.

    Args:
      plant: changes the plan of one run and returns the layer the fault is in, or None.
      kind: `sudden`, `gradual`, `structural`: there from the first step, or `quiet`: nothing is wrong.
      causes: the causes that are right; none where nothing is wrong.
      models: the models it is planted in, and the optimizers.
      precision: of its runs.
    """

    plant: Plant
    kind: str
    causes: tuple[str, ...]
    models: tuple[str, ...] = MODELS
    optimizers: tuple[str, ...] = OPTIMIZERS
    precision: str = "float32"


# -- what is planted ----------------------------------------------------------------------------


def rate_ramp(plan: Plan, case: Case, _: Program) -> None:
    """The learning rate grows by x100 over 300, 150 or 75 steps, and stays there."""
    over = (300, 150, 75)[case.severity]
    t = np.arange(plan.rate.shape[1]) - case.start
    plan.rate[case.r] *= 100.0 ** np.clip(t / over, 0, 1)


def rate_x40(plan: Plan, case: Case, _: Program) -> None:
    """The learning rate jumps by x20, x40 or x80."""
    plan.rate[case.r, case.start :] *= (20, 40, 80)[case.severity]


def no_warmup(plan: Plan, case: Case, _: Program) -> None:
    """The first step is taken at the peak rate, which is x5, x10 or x20 of what suits the model."""
    cold_start(plan, case, (5, 10, 20)[case.severity])


def deep_saturating(plan: Plan, case: Case, program: Program) -> str | None:
    """Ten tanh layers with kernels x2 or x5, or ten sigmoid layers initialized as if they were tanh."""
    plan.gain[case.r, :-1] = (2, 5, 0.2)[case.severity]
    return "dense_00" if program.model == "deep_sigmoid" else None  # every tanh is saturated; gradients vanish there


def exploding_rnn(plan: Plan, case: Case, program: Program) -> str:
    """The recurrent kernel of a plain RNN over 48 steps is x2, x2.5 or x3 of an orthogonal one."""
    plan.gain[case.r, program.layers.index("recurrent")] = (2, 2.5, 3)[case.severity]
    return "recurrent"


def post_ln(plan: Plan, case: Case, _: Program) -> None:
    """A post-LN transformer of 5 blocks without warmup, at x3, x6 or x12 of the rate that suits it."""
    cold_start(plan, case, (3, 6, 12)[case.severity])


def cold_start(plan: Plan, case: Case, factor: float) -> None:
    """Replaces the schedule by one without warmup, with its peak times `factor`."""
    rate = schedule(plan.rate[case.r].max() * factor, STEPS, warmup=0)
    plan.rate[case.r] = np.concatenate([rate, np.full(LENGTH - STEPS, rate[-1])])


def no_loss_scaling(plan: Plan, case: Case, program: Program) -> None:
    """float16 at a loss scale of 1, where the loss is 3e-5, 1e-5 or 3e-6 of an ordinary one."""
    factor = (3e-5, 1e-5, 3e-6)[case.severity]
    plan.loss_scale[case.r] = 1
    plan.cotangent[case.r] = factor
    if program.optimizer == "sgd":
        plan.rate[case.r] /= factor


def outlier_batch(plan: Plan, case: Case, program: Program) -> None:
    """One batch with inputs x10, x30 or x100; for tokens, half of it noise, all of it, or three such batches."""
    if ARCHITECTURES[program.model].tokens:
        plan.outlier[case.r, case.start : case.start + (1, 1, 3)[case.severity]] = (0.5, 1, 1)[case.severity]
    else:
        plan.outlier[case.r, case.start] = (9, 29, 99)[case.severity]


def nan_batch(plan: Plan, case: Case, _: Program) -> None:
    """One example that is NaN, a batch that is, or three batches that are."""
    plan.nans[case.r, case.start : case.start + (1, 1, 3)[case.severity]] = (1, 1e6, 1e6)[case.severity]


def label_shift(plan: Plan, case: Case, _: Program) -> None:
    """For 60 batches 40, 70 or 100 % of the labels are those of other classes."""
    plan.shift[case.r, case.start : case.start + 60] = (0.4, 0.7, 1.0)[case.severity]


def dying_relu(plan: Plan, case: Case, program: Program) -> str:
    """For 150 steps one relu layer's biases fall by 0.1, 0.3 or 1 a step: half, most or all of its units die."""
    hidden = ARCHITECTURES[program.model].relus
    layer = hidden[case.seed % len(hidden)]
    plan.push[case.r, program.layers.index(layer)] = -(0.1, 0.3, 1.0)[case.severity]
    plan.active[case.r, case.start : case.start + 150] = 1
    return layer


def adam_eps(plan: Plan, case: Case, program: Program) -> None:
    """Adam's epsilon is 1e-2, 1e-1 or 1, above the square root of its second moment; nothing of it is in the plan."""
    assert program.eps == EPSILONS[case.severity]
    del plan


def logit_drift(plan: Plan, case: Case, program: Program) -> None:
    """All logits rise by 0.1 or 0.5 a step, which the softmax does not see; or the head's kernel grows 1.5 % a step."""
    head = program.layers.index("head")
    if case.severity == SEVERITIES - 1:
        plan.grow[case.r, head] = 0.015
    else:
        plan.push[case.r, head] = (0.1, 0.5)[case.severity]
    plan.active[case.r, case.start :] = 1


def frozen_layer(plan: Plan, case: Case, program: Program) -> str:
    """One layer gets no update from the fault on, none from the beginning, or no gradient from the beginning."""
    planted = ARCHITECTURES[program.model].planted
    layer = planted[case.seed % len(planted)]
    at = program.layers.index(layer)
    if case.severity == SEVERITIES - 1:
        plan.cut[case.r, at] = 0
    else:
        plan.keep[case.r, at] = 0
        plan.keep_from[case.r] = case.start if case.severity == 0 else 0
    return layer


def bad_init(plan: Plan, case: Case, program: Program) -> str:
    """One layer's initial kernel is x0.01, x30 or x100."""
    planted = ARCHITECTURES[program.model].planted
    layer = planted[case.seed % len(planted)]
    plan.gain[case.r, program.layers.index(layer)] = (0.01, 30, 100)[case.severity]
    return layer


def rate_start(plan: Plan, case: Case, _: Program) -> None:
    """From the first step on the rate is x10, x100 or x1e18 of what suits the model."""
    cold_start(plan, case, (10, 100, 1e18)[case.severity])


def unscaled_inputs(plan: Plan, case: Case, _: Program) -> None:
    """All inputs are x30, x100 or x255."""
    plan.outlier[case.r] = (29, 99, 254)[case.severity]


def dead_network(plan: Plan, case: Case, program: Program) -> None:
    """For 50 steps the biases of all relu layers fall by 0.5, 1 or 3 a step: no gradient is left."""
    for layer in ARCHITECTURES[program.model].relus:
        plan.push[case.r, program.layers.index(layer)] = -(0.5, 1.0, 3.0)[case.severity]
    plan.active[case.r, case.start : case.start + 50] = 1


def at_half_to_double(plan: Plan, case: Case, _: Program) -> None:
    """Nothing but the rate, which is x0.5, x1 or x2."""
    plan.rate[case.r] *= (0.5, 1, 2)[case.severity]


def cold_healthy(plan: Plan, case: Case, _: Program) -> None:
    """No warmup at x0.25, x0.5 or x1 of the rate that suits the model: it trains well."""
    cold_start(plan, case, (0.25, 0.5, 1)[case.severity])


def as_built(plan: Plan, case: Case, program: Program) -> None:
    """Nothing: what is special is the program's."""
    del plan, case, program


QUIET: dict[str, Family] = {
    "adam_b2": Family(as_built, "quiet", (), models=("mlp", "transformer"), optimizers=("adam",)),
    "cold_healthy": Family(cold_healthy, "quiet", ()),
    "converged": Family(at_half_to_double, "quiet", (), models=("by_heart",)),
    "frozen_on_purpose": Family(as_built, "quiet", (), models=("mlp", "cnn"), optimizers=("adam",)),
    "plateau": Family(at_half_to_double, "quiet", (), models=("parity",)),
    "sparse_embedding": Family(at_half_to_double, "quiet", (), models=("sparse",)),
}
FAMILIES: dict[str, Family] = {
    "adam_eps": Family(adam_eps, "structural", ("adam_eps",), optimizers=("adam",)),
    "bad_init": Family(bad_init, "structural", ("bad_init",)),
    "dead_network": Family(dead_network, "gradual", ("dead_relu",), models=("mlp", "cnn", "transformer")),
    "deep_saturating": Family(deep_saturating, "structural", ("vanishing",), models=("deep_tanh", "deep_sigmoid")),
    "dying_relu": Family(dying_relu, "gradual", ("dead_relu",), models=("mlp", "cnn", "transformer")),
    "exploding_rnn": Family(exploding_rnn, "structural", ("exploding_recurrence",), models=("long_rnn",)),
    "frozen_layer": Family(frozen_layer, "structural", ("frozen_layer",)),
    "label_shift": Family(label_shift, "sudden", ("label_shift",)),
    "logit_drift": Family(logit_drift, "gradual", ("logit_drift",)),
    "nan_batch": Family(nan_batch, "sudden", ("not_finite",)),
    "no_loss_scaling": Family(no_loss_scaling, "structural", ("no_loss_scaling",), precision="float16"),
    "no_warmup": Family(no_warmup, "structural", ("rate_too_high",)),
    "outlier_batch": Family(outlier_batch, "sudden", ("bad_batch",)),
    "post_ln": Family(post_ln, "structural", ("post_norm", "rate_too_high"), models=("post_ln",)),
    "rate_ramp": Family(rate_ramp, "gradual", ("rate_too_high",)),
    "rate_start": Family(rate_start, "structural", ("rate_too_high", "not_finite")),
    "rate_x40": Family(rate_x40, "sudden", ("rate_too_high",)),
    "unscaled_inputs": Family(unscaled_inputs, "structural", ("unscaled_inputs",), models=("mlp", "cnn", "rnn")),
}
NEW = ("dead_network", "rate_start", "unscaled_inputs")
assert list(FAMILIES) == sorted(FAMILIES)
assert list(QUIET) == sorted(QUIET)
# Thresholds may be chosen on the first half; the second half says what they are worth. Causes and advice were written
# with all of them in view, those added last among them.
CALIBRATION = frozenset([name for name in FAMILIES if name not in NEW][::2]) | set(NEW)


def family_of(name: str) -> Family:
    """A family of faults, or of runs with nothing wrong, by its name."""
    return FAMILIES[name] if name in FAMILIES else QUIET[name]


def severities(family: str, program: Program) -> tuple[int, ...]:
    """The severities of a family that a program runs: saturating tanh is two, sigmoid one; each epsilon is one."""
    if family == "deep_saturating":
        return (0, 1) if program.model == "deep_tanh" else (2,)
    if family == "adam_eps":
        return (EPSILONS.index(program.eps),)
    if family == "adam_b2":
        return (DECAYS.index(program.b2),)
    if family == "frozen_on_purpose":
        return (frozen_parts(program.model).index(program.frozen),)
    return tuple(range(SEVERITIES))


def start_of(family: str, severity: int, seed: int) -> int:
    """First faulty step, counted from 0; spread over seeds, so that it falls anywhere between two full records."""
    late = family_of(family).kind not in ("structural", "quiet") or (family, severity) == ("frozen_layer", 0)
    return 290 + 7 * (seed % SEEDS) if late else 0


def planted(
    family: str, program: Program, seeds: int = SEEDS, first: int = 0
) -> tuple[Plan, list[Case], list[str | None]]:
    """The plan of all runs of a family in one program, of the seeds from `first` on, with what was planted in each.

    Where a program runs some of the severities only, the plan is filled up with runs that have no fault.
    """
    wanted = [(severity, first + seed) for severity in severities(family, program) for seed in range(seeds)]
    seeds_of = [seed for _, seed in wanted]
    plan = undisturbed(program, np.resize(seeds_of, SEVERITIES * seeds))
    cases = [Case(r, severity, seed, start_of(family, severity, seed)) for r, (severity, seed) in enumerate(wanted)]
    return plan, cases, [family_of(family).plant(plan, case, program) for case in cases]


def frozen_parts(model: str) -> list[tuple[str, ...]]:
    """What is frozen on purpose, by severity: the first layer, one in the middle, all but the head."""
    layers = ARCHITECTURES[model].planted
    return [layers[:1], layers[1:2], layers[:-1]]


def programs(family: str) -> list[Program]:
    """The programs a family runs in."""
    chosen = family_of(family)
    found = [Program(model, optimizer, chosen.precision) for model in chosen.models for optimizer in chosen.optimizers]
    if family == "adam_eps":
        return [program._replace(eps=eps) for program in found for eps in EPSILONS]
    if family == "adam_b2":
        return [program._replace(b2=b2) for program in found for b2 in DECAYS]
    if family == "frozen_on_purpose":
        return [program._replace(frozen=part) for program in found for part in frozen_parts(program.model)]
    return found


def healthy(program: Program, runs: int, steps: int = HEALTHY, first: int = 0) -> Plan:
    """Runs with nothing wrong and much going on: warmup ends, restarts, batch-size changes, dropout, label noise."""
    seeds = np.arange(first + 100, first + 100 + runs)
    plan = undisturbed(program, seeds, steps)
    base = ARCHITECTURES[program.model].rates[program.optimizer]
    for r, seed in enumerate(seeds):
        rng = np.random.default_rng([seed, 7])
        peak = base * rng.choice([0.5, 1.0, 1.5])
        cycle = int(rng.choice([steps, steps // 2, steps // 4]))
        warmup = int(rng.choice([10, 50, 150]))
        first = schedule(peak, cycle, min(warmup, cycle // 2))
        restarts = [schedule(peak, cycle, warmup=int(rng.choice([0, 20]))) for _ in range(steps // cycle - 1)]
        rate = np.concatenate([first, *restarts])
        plan.rate[r] = np.concatenate([rate, np.full(LENGTH - len(rate), rate[-1])])
        if rng.random() < 0.5:  # the batch is halved for a while
            changes = np.sort(rng.integers(steps // 5, steps, 2))
            plan.size[r, changes[0] : changes[1]] = 0.5
        plan.dropout[r] = rng.choice([0.0, 0.1, 0.3])
    return plan
