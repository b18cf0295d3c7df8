"""What a configuration's step needs of a device's memory, and which line of the configuration lowers it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxprop import data
from jaxprop.config.checks import check
from jaxprop.config.custom import custom_sections
from jaxprop.config.diff import mathematical
from jaxprop.config.dump import dump, with_absolute_paths
from jaxprop.config.load import load
from jaxprop.config.schema.config import Config
from jaxprop.errors import JaxpropError, OutOfMemoryError
from jaxprop.models.remat import POLICIES
from jaxprop.run.compose import Experiment, compose
from jaxprop.sinks.streams import tell
from jaxprop.train.memory import Memory
from jaxprop.train.memory.predict import size_text
from jaxprop.types import Source

WORTH = 0.01  # of the peak: a smaller saving is not advised
SECONDS = 120.0  # that a run which has failed takes for finding out what would help


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


class Tried(NamedTuple):
    """A change that was compiled, whether it helps or not.

    Args:
      line: such as `run.accumulate=2`.
      peak: bytes of one step with it; None where it could not be compiled.
      saving: bytes less than without it, negative where it takes more; None as `peak`.
      resumes: whether a run may be continued with it.
      helps: whether it lowers the peak by more than 1 %.
      problem: why it could not be compiled; empty where it was.
    """

    line: str
    peak: int | None
    saving: int | None
    resumes: bool
    helps: bool
    problem: str = ""


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
    steps = (config.run.per_call,) if config.run.per_call > 1 else ()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*steps, *x.shape), x.dtype), batch)
    if not config.health.layers:
        return experiment.step.memory(state, shapes, "lean")
    return experiment.step.memory(state, shapes, "flush" if config.precision.scaled else "full")


def changes(config: Config) -> tuple[Change, ...]:
    """Returns the changes to try, those first that usually save most.

    Args:
      config: the configuration.

    Returns:
      At most eight, each a valid configuration.

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
        ("run", "vocabulary_chunks", 8),
        ("data", "batch_size", size // 2),
        ("precision", "policy", "bfloat16"),
        *(("run", "remat", name) for name in POLICIES if name != "full"),
    ]
    # Another policy than the one in use saves something only if that one keeps more.
    tried = [one for one in wanted if one[2] != config.run.remat and one[2] != config.precision.policy]
    if config.run.vocabulary_chunks not in ("auto", "none", 1):
        tried = [one for one in tried if one[1] != "vocabulary_chunks"]
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
) -> tuple[Tried, ...]:
    """Compiles the step with each change; returns all of them, the largest saving first.

    Args:
      config: the configuration.
      now: its prediction.
      sources: its data, if they are open already.
      note: takes a line before each compilation, since it may take long; by default it is shown.
    """
    found = _tried(config, now, sources, note)
    return tuple(sorted(found, key=lambda one: (one.saving is None, -(one.saving or 0))))


def _advice(tried: Tried) -> Advice:
    assert tried.peak is not None
    assert tried.saving is not None
    return Advice(tried.line, tried.peak, tried.saving, tried.resumes)


def _tried(
    config: Config, now: Memory, sources: Mapping[str, Source] | None, note: Callable[[str], None]
) -> Iterator[Tried]:
    tried = changes(config)
    for i, change in enumerate(tried):
        note(f"compiling with {change.line} ({i + 1} of {len(tried)})")
        resumes = not mathematical(config, change.config)
        try:
            memory = predicted(compose(change.config, sources))
        except (JaxpropError, jax.errors.JaxRuntimeError, MemoryError) as error:
            # A change that the data or the devices do not allow, or whose own program does not fit.
            yield Tried(change.line, None, None, resumes, helps=False, problem=_reason(error))
            continue
        if memory is not None:
            saving = now.peak - memory.peak
            yield Tried(change.line, memory.peak, saving, resumes, helps=saving > WORTH * now.peak)


def _reason(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "does not fit in memory either"
    return "; ".join(str(error).splitlines()[:1]) or type(error).__name__


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
        tell("this run does not fit in memory; compiling it with changes that may help, for up to two minutes")
        raise OutOfMemoryError(_sentence(experiment, error, saved)) from error


def _sentence(experiment: Experiment, error: Exception, saved: Callable[[], int | None]) -> str:
    what = f"this run does not fit in memory{_asked(error)}"
    try:
        now, *advice = _worked_out(experiment)
        step = saved()
    except Exception:  # whatever fails here must not hide what is known
        return (
            f"{what}; lower data.batch_size, raise run.accumulate, or set run.remat=full or precision.policy=bfloat16"
        )
    peak, part, size = now["peak"], now["part"], now["size"]
    what += f": a step needs {size_text(peak)} on each device, of which {size_text(size)} are {part}"
    useful = sorted((Advice(**one) for one in advice), key=lambda one: -one.saving)
    best = next((one for one in useful if one.resumes or step is None), useful[0] if useful else None)
    if best is None:
        return f"{what}; a smaller model, a smaller data.batch_size or more devices would lower that"
    how = f"{what}; {best.line} lowers it to {size_text(best.peak)}, which saves {size_text(best.saving)}"
    if step is None:
        return how
    if best.resumes:
        return f"{how}, and goes on from the checkpoint of step {step}"
    return f"{how}, but changes what is computed: give it with --run DIR, or with --fresh"


def _worked_out(experiment: Experiment) -> list[dict[str, Any]]:
    """What `findings` finds in the time there is; on CPU in a process of its own.

    There the program is compiled in the memory that has run out, and XLA ends a process that has none left to compile.
    """
    if jax.default_backend() != "cpu":
        started, found = time.perf_counter(), []
        for finding in findings(experiment):
            found.append(finding)
            if time.perf_counter() - started > SECONDS:
                break
        return found
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(dump(with_absolute_paths(experiment.config), Path(folder)), encoding="utf-8")
        own = [section.target.where for section in custom_sections(experiment.config).values()]
        command = [sys.executable, "-m", __name__, str(file), *dict.fromkeys(own)]
        try:
            lines = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS).stdout
        except subprocess.TimeoutExpired as late:
            lines = late.stdout or b""
    return [json.loads(line) for line in lines.splitlines() if line.endswith(b"}")]


def findings(experiment: Experiment) -> Iterator[dict[str, Any]]:
    """Yields the peak and its largest part, and then each change that lowers it, as soon as it is known.

    Args:
      experiment: of the configuration.
    """
    now = predicted(experiment)
    if now is None:
        return
    part, size = now.largest
    yield {"peak": now.peak, "part": part, "size": size}
    for one in _tried(experiment.config, now, experiment.sources, note=lambda _: None):
        if one.helps:
            yield _advice(one)._asdict()


def _asked(error: BaseException) -> str:
    """The size that could not be had: a CPU's error gives bytes, a GPU's a text such as `3.02GiB`.

    Example:
      >>> _asked(MemoryError("Out of memory while trying to allocate 3.02GiB with allocator GPU_0_bfc"))
      ' (an allocation of 3.02 GiB failed)'
    """
    found = re.search(r"allocat\w+ ([\d.]+) ?(bytes|[KMGT]iB)", str(error))
    if found is None:
        return ""
    size = size_text(int(found[1])) if found[2] == "bytes" else f"{found[1]} {found[2]}"
    return f" (an allocation of {size} failed)"


if __name__ == "__main__":
    for finding in findings(compose(load(sys.argv[1], code=sys.argv[2:]).config)):
        print(json.dumps(finding), flush=True)
