"""What a configuration's step needs of a device's memory, and which line of the configuration lowers it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jaxprop import data
from jaxprop.config.checks import check
from jaxprop.config.diff import mathematical
from jaxprop.config.schema.config import Config
from jaxprop.errors import JaxpropError, OutOfMemoryError
from jaxprop.models.remat import POLICIES
from jaxprop.run.compose import Experiment, compose
from jaxprop.sinks.streams import tell
from jaxprop.train.memory import Memory
from jaxprop.train.memory.predict import size_text
from jaxprop.types import Source

WORTH = 0.01  # of the peak: a smaller saving is not advised
SECONDS = 90.0  # after which a run that has failed compiles no further change


class Change(NamedTuple):
    """One line that may lower the memory, as it is pasted into a command, and the configuration with it."""

    line: str
    config: Config


class Advice(NamedTuple):
    """A line of the configuration that lowers the peak, by the program compiled with it.

    Args:
      line: such as `run.accumulate=2`.
      peak: bytes of one step with it.
      saving: bytes less than without it.
      resumes: whether a run may be continued with it: it changes nothing of what is computed.
    """

    line: str
    peak: int
    saving: int
    resumes: bool


def predicted(experiment: Experiment) -> Memory | None:
    """Predicts the memory of the run's largest call, by compiling it; nothing is allocated for it.

    Batches that are prefetched, an evaluation and the host's own memory come on top.

    Args:
      experiment: of the configuration.

    Returns:
      The prediction; None where the backend does not report memory.
    """
    config = experiment.config
    state = jax.eval_shape(lambda: experiment.init(config.run.seed))
    batch = next(data.one_pass(experiment.sources["train"], config.data.batch_size))
    steps = (config.run.steps_per_call,) if config.run.steps_per_call > 1 else ()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*steps, *x.shape), x.dtype), batch)
    if not config.health.layers:
        return experiment.step.memory(state, shapes, "lean")
    return experiment.step.memory(state, shapes, "flush" if config.precision.policy == "float16" else "full")


def changes(config: Config) -> tuple[Change, ...]:
    """Returns the changes to try, those first that usually save most.

    Args:
      config: the configuration.

    Returns:
      At most seven, each a valid configuration.

    Example:
      >>> from jaxprop.config.build import build
      >>> sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}}
      >>> made = build(sections | {"optimizer": {"name": "adam", "lr": 0.1}, "run": {"epochs": 1, "remat": "dots"}})
      >>> [change.line for change in changes(made)]  # doctest: +NORMALIZE_WHITESPACE
      ['run.remat=full', 'run.accumulate=4', 'run.accumulate=2', 'data.batch_size=32', 'precision.policy=bfloat16',
       'run.remat=dots_no_batch']
    """
    parts, size = config.run.accumulate, config.data.batch_size
    wanted: list[tuple[str, str, Any]] = [
        ("run", "remat", "full"),
        ("run", "accumulate", 4 * parts),
        ("run", "accumulate", 2 * parts),
        ("data", "batch_size", size // 2),
        ("precision", "policy", "bfloat16"),
        *(("run", "remat", name) for name in POLICIES if name != "full"),
    ]
    # Another policy than the one in use saves something only if that one keeps more.
    tried = [one for one in wanted if one[2] != config.run.remat and one[2] != config.precision.policy]
    if config.run.remat == "full":
        tried = [one for one in tried if one[1] != "remat"]
    if config.precision.policy != "float32":
        tried = [one for one in tried if one[1] != "policy"]
    made = [Change(f"{section}.{key}={value}", _changed(config, section, key, value)) for section, key, value in tried]
    return tuple(change for change in made if change.config.data.batch_size and not check(change.config))


def _changed(config: Config, section: str, key: str, value: Any) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update={key: value})})


def advise(
    config: Config,
    now: Memory,
    sources: Mapping[str, Source] | None = None,
    note: Callable[[str], None] = tell,
    seconds: float | None = None,
) -> tuple[Advice, ...]:
    """Compiles the step with each change, and returns those that lower the peak, the largest saving first.

    Args:
      config: the configuration.
      now: its prediction.
      sources: its data, if they are open already.
      note: takes a line before each compilation, since it may take long; by default it is shown.
      seconds: after which no further compilation is started.
    """
    found, tried, started = [], changes(config), time.perf_counter()
    for i, change in enumerate(tried):
        if seconds is not None and time.perf_counter() - started > seconds:
            break
        note(f"compiling with {change.line} ({i + 1} of {len(tried)})")
        try:
            memory = predicted(compose(change.config, sources))
        except (JaxpropError, jax.errors.JaxRuntimeError, MemoryError):
            continue  # a change that the data or the devices do not allow, or whose own program does not fit
        if memory is not None and now.peak - memory.peak > WORTH * now.peak:
            resumes = not mathematical(config, change.config)
            found.append(Advice(change.line, memory.peak, now.peak - memory.peak, resumes))
    return tuple(sorted(found, key=lambda advice: -advice.saving))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that memory ran out.

    Example:
      >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
      (True, False)
    """
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
            return True
        error = error.__cause__
    return False


@contextlib.contextmanager
def explained(experiment: Experiment, saved: Callable[[], int | None] = lambda: None) -> Iterator[None]:
    """Turns an error that says that memory ran out into one sentence with the line that helps.

    Args:
      experiment: what runs inside.
      saved: the step of the newest checkpoint, or None.

    Raises:
      OutOfMemoryError: memory ran out inside.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # Said first: where memory is short, what follows may take the process with it.
        tell("this run does not fit in memory; compiling changes of the configuration that may help")
        raise OutOfMemoryError(_sentence(experiment, error, saved)) from error


def _sentence(experiment: Experiment, error: Exception, saved: Callable[[], int | None]) -> str:
    what = f"this run does not fit in memory{_asked(error)}"
    try:
        now = predicted(experiment)
        assert now is not None
        advice = advise(experiment.config, now, experiment.sources, seconds=SECONDS)
        step = saved()
    except Exception:  # whatever fails here must not hide what is known
        return (
            f"{what}; lower data.batch_size, raise run.accumulate, or set run.remat=full or precision.policy=bfloat16"
        )
    part, size = now.largest
    what += f": a step needs {size_text(now.peak)} on each device, of which {size_text(size)} are {part}"
    kept = [line for line in advice if line.resumes or step is None] or list(advice)
    if not kept:
        return f"{what}; no single line of the configuration lowers that, so it takes a smaller model or more devices"
    best = kept[0]
    how = f"{best.line} lowers it to {size_text(best.peak)}, which saves {size_text(best.saving)}"
    if step is None:
        return f"{what}; {how}"
    if best.resumes:
        return f"{what}; {how}, and goes on from the checkpoint of step {step}"
    return f"{what}; {how}, but changes what is computed: give it with --run DIR, or with --fresh"


def _asked(error: BaseException) -> str:
    found = re.search(r"allocat\w+ (\d+) bytes", str(error))
    return f" (an allocation of {size_text(int(found[1]))} failed)" if found else ""
