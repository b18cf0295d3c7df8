"""One retraining, from new data to a decision: suspects, challenger, comparison, promotion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop import data
from jaxprop.config.dump import to_builtins
from jaxprop.config.schema.config import Config
from jaxprop.data.alike import open_alike
from jaxprop.data.readers.mixture import LENGTHS, join
from jaxprop.data.splits import subset
from jaxprop.errors import EXIT_DIVERGED, EXIT_DONE, DataError, RunFolderError, UsageError
from jaxprop.run import champions
from jaxprop.run.champions import Making
from jaxprop.run.conduct import Outcome
from jaxprop.run.folder import find_run, read_summary
from jaxprop.run.opened import Opened, open_run
from jaxprop.run.precision import policy_of
from jaxprop.run.predictor import Predictor
from jaxprop.run.served import CHAMPION, PREFIX, VERSIONS, Version, is_run_of
from jaxprop.run.status import Status
from jaxprop.run.train import train
from jaxprop.sinks.streams import FULL
from jaxprop.tools.retrain import suspects
from jaxprop.tools.retrain.challenger import challenger_config
from jaxprop.tools.retrain.compare import Sides, compared, deciding, headline, side_by_side
from jaxprop.tools.retrain.decide import Compared, Decision, decide, usual_tolerance
from jaxprop.tools.retrain.doubts import doubts_of
from jaxprop.tools.retrain.fresh import Fresh, new_section, open_fresh, refuse_same, require_test, sections_of
from jaxprop.tools.retrain.measure import each_example, measure
from jaxprop.tools.retrain.shared import digests, without
from jaxprop.types import Source

REPLAY = 0.3
INTERRUPTED = "interrupted; the same command goes on with this challenger, and the champion is the one it was"
_CHUNK = 1024  # examples that are read at a time for their labels


class Request(NamedTuple):
    """What is asked for.

    Args:
      run: a run's folder or name, or `champion:NAME`.
      new: path of the new data, or of a YAML file with a section `data`.
      replay: share of old examples among those that the challenger is trained on.
      new_classes: whether classes that the champion does not know are added to its own.
      tolerance: by how much the challenger may be worse on the old test set; None for the usual one of the metric.
      overrides: `key=value`, of the challenger's configuration.
      root: of all champions; None for the default.
      code: files and modules with code of the user's own that may be run.
    """

    run: str
    new: str
    replay: float = REPLAY
    new_classes: bool = False
    tolerance: float | None = None
    overrides: tuple[str, ...] = ()
    root: Path | None = None
    code: tuple[str, ...] = ()


class Retrained(NamedTuple):
    """How a retraining ended.

    Args:
      version: of the challenger; None where its training was interrupted.
      record: what was written of it.
      exit_code: 0 where it was decided, whichever way; that of the training where it was interrupted.
    """

    version: Version | None
    record: dict[str, Any]
    exit_code: int


def retrain(request: Request, *, quiet: bool = False, tell: Callable[[str], None] = lambda _: None) -> Retrained:
    """Trains a challenger on old and new data, and lets it take the champion's place if it is better.

    Args:
      request: what is asked for.
      quiet: no console of the challenger's training.
      tell: takes the lines that a person is told meanwhile.

    Returns:
      The version that the challenger has become, and its record.

    Raises:
      UsageError: the run, the new data or the options cannot be used.
      DataError: the new data do not fit the champion.
      RunFolderError: another process is retraining this champion.
      CheckpointError: the champion is damaged.
    """
    if not 0 <= request.replay < 1:
        raise UsageError(f"--replay: expected a share of at least 0 and below 1, got {request.replay:g}")
    if request.tolerance is not None and not 0 <= request.tolerance < float("inf"):
        raise UsageError(f"--tolerance: expected a number of at least 0, got {request.tolerance:g}")
    name, folder = champion_of(request)
    champions.require_free(request.root, name)  # before anything large is read
    opened = open_run(folder, code=request.code)
    if opened.prepared.splits and "test" not in opened.prepared.splits:
        raise DataError(_no_old_test(opened))
    fresh = open_fresh(opened, new_section(opened.config, request.new), new_classes=request.new_classes)
    old = _old(opened, fresh, tell)
    require_test(fresh)
    tests, shared = _tests(fresh, old, tell)
    parent = _adopted(request, name, folder, tell)
    config = challenger_config(
        opened.config, fresh, _lengths(opened), parent.folder, replay=request.replay, overrides=request.overrides,
        code=request.code,
    )  # fmt: skip
    fingerprints = _fingerprints(opened, fresh, old)
    about = {"config": to_builtins(config), "data": fingerprints}
    with champions.begin(request.root, name, about) as making, _told_at_its_end(making.home, tell):
        if making.parent.number != parent.number:
            raise RunFolderError(f"the champion {name!r} has changed meanwhile; run the same command again")
        for note in making.notes:
            tell(note)
        found = _suspects(opened, fresh, old, making, tell)
        outcome = _trained(config, making, tell, quiet=quiet)
        if outcome.exit_code not in (EXIT_DONE, EXIT_DIVERGED):
            tell(INTERRUPTED)
            return Retrained(
                None, {"decision": "interrupted", "reason": "the training was interrupted"}, outcome.exit_code
            )
        record = {"data": fingerprints, "new_data": str(request.new), "replay": request.replay, **found}
        if any(shared.values()):
            record["shared"] = shared
        if fresh.new_classes:
            record["new_classes"] = list(fresh.new_classes)
        if outcome.exit_code == EXIT_DIVERGED:
            decision = Decision(False, f"the challenger diverged: {outcome.summary.get('error', 'see its alerts')}")
        else:
            challenger = open_run(making.folder, code=request.code)
            decision, judged = _judged(request, opened, challenger, tests)
            record |= judged
        record["reason"] = decision.reason
        version = champions.settle(making, record, promote=decision.promote)
    return Retrained(version, dict(version.record), EXIT_DONE)


# -- steps, in their order ------------------------------------------------------------------------


def champion_of(request: Request) -> tuple[str, Path]:
    """Returns the name of the champion, and the folder of its run: of the version that serves, where there is one.

    Raises:
      UsageError: there is none, or a champion of the run's name was made of another run.
    """
    if request.run.startswith(PREFIX):
        name, _, version = request.run.removeprefix(PREFIX).partition("@")
        if version:
            raise UsageError(
                f"{request.run}: what is challenged is the version that serves; write {PREFIX}{name}, after "
                f"'jaxprop champions {name} --rollback {version}' where another is meant"
            )
        return name, champions.current(request.root, name).folder
    folder = find_run(Path(request.run))
    place = folder.absolute()
    if place.parent.name == VERSIONS and (place.parent.parent / CHAMPION).is_file():
        raise UsageError(f"{folder} is a version of a champion; write {PREFIX}{place.parent.parent.name}")
    name = place.name
    if name not in champions.names(request.root):
        return name, folder
    first = next((v for v in champions.versions(request.root, name) if v.number == 1), None)
    if first is not None and first.record.get("from") != str(folder.absolute()):
        raise UsageError(
            f"there is a champion {name!r} that was made of {first.record.get('from')}; retrain it as {PREFIX}{name}, "
            f"or give {folder} another name"
        )
    if first is not None and not is_run_of(folder, first):
        raise UsageError(
            f"{folder} has been trained again since it became version 1 of the champion {name!r}; retrain that one as "
            f"{PREFIX}{name}, or give {folder} another name"
        )
    return name, champions.current(request.root, name).folder


def _adopted(request: Request, name: str, folder: Path, tell: Callable[[str], None]) -> Version:
    if name in champions.names(request.root):
        return champions.current(request.root, name)
    version = champions.adopt(request.root, name, folder)
    tell(f"{folder} is version 1 of the champion {name} now: {version.folder}")
    return version


def _lengths(opened: Opened) -> list[int]:
    """Number of training examples of each source of a champion's."""
    return list(opened.prepared.info.get(LENGTHS) or [opened.prepared.length])


class Old(NamedTuple):
    """The champion's own data: its test set, and the fingerprint of the training examples of each source."""

    test: Source
    fingerprints: list[str]


def _no_old_test(opened: Opened) -> str:
    return (
        f"the data of {opened.folder} have no test examples, by which champion and challenger could be compared; train "
        "it with examples that data.test names"
    )


def _old(opened: Opened, fresh: Fresh, tell: Callable[[str], None]) -> Old:
    """Opens the champion's own data, prepared as the new ones are; tells of a test set that has changed since.

    Raises:
      DataError: they are gone, have no test set, or are the new ones.
    """
    task, sections = opened.config.task.name, sections_of(opened.config)
    try:
        sources = [open_alike(data.open_sources, section, task, fresh.alike) for section in sections]
    except DataError as error:
        raise DataError(
            f"the champion's own data, which a challenger is trained and compared on, cannot be opened: {error}"
        ) from error
    trains = [source["train"].fingerprint for source in sources]
    refuse_same(fresh, list(zip(sections, trains, strict=True)))
    tests = [source["test"] for source in sources if "test" in source]
    if not tests:
        raise DataError(_no_old_test(opened))
    test = join(tests, task)
    # With more classes, the same examples have another fingerprint.
    if not fresh.new_classes and test.fingerprint != opened.prepared.splits.get("test", test.fingerprint):
        tell(
            "the champion's own test examples have changed since it was trained; both models are compared on them as "
            "they are now"
        )
    return Old(test, trains)


def _tests(fresh: Fresh, old: Old, tell: Callable[[str], None]) -> tuple[dict[str, Source], dict[str, int]]:
    """The test sets without what the challenger will be trained on, and how many examples that leaves out of each.

    Raises:
      DataError: it leaves none.
    """
    seen = digests(fresh.sources["train"])
    tests, shared = {}, {}
    for name, source in (("new", fresh.sources["test"]), ("old", old.test)):
        tests[name], shared[name] = without(source, seen)
        if not tests[name].length:
            raise DataError(f"all {name} test examples are among the new training examples; give others to test on")
        if shared[name]:
            tell(
                f"{shared[name]} of {source.length} {name} test examples are among the new training examples, and are "
                "left out of the comparison"
            )
    return tests, shared


@contextlib.contextmanager
def _told_at_its_end(home: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Says what is left of a retraining that is stopped by Ctrl-C or a full disk."""
    try:
        yield
    except KeyboardInterrupt:
        tell(INTERRUPTED)
        raise
    except OSError as error:
        if error.errno not in FULL:  # such as data that can no longer be read
            raise
        raise RunFolderError(
            f"the challenger in {home} cannot be written ({champions.cause_of(error)}), and the champion is the one it "
            "was; free space, and run the same command again"
        ) from error


def _trained(config: Config, making: Making, tell: Callable[[str], None], *, quiet: bool) -> Outcome:
    """Trains the challenger, where an interrupted retraining has not done so already."""
    summary = read_summary(making.folder) if making.resumed else None
    if summary is not None and summary.get("status") == Status.COMPLETED:
        tell("it has been trained already")
        return Outcome(summary, EXIT_DONE)
    return train(config, making.folder, quiet=quiet)


def _fingerprints(opened: Opened, fresh: Fresh, old: Old) -> dict[str, Any]:
    return {
        "old": old.fingerprints,
        "old_test": old.test.fingerprint,
        "new": fresh.sources["train"].fingerprint,
        "new_test": fresh.sources["test"].fingerprint,
        "champion": opened.prepared.fingerprint,
    }


def _suspects(opened: Opened, fresh: Fresh, old: Old, making: Making, tell: Callable[[str], None]) -> dict[str, Any]:
    """Looks for wrong labels among the new training examples, before anything is trained on them."""
    config, task = opened.config, opened.config.task.name
    train = fresh.sources["train"]
    known, tested = (
        (of_known_classes(source, fresh.known, task) if fresh.new_classes else source) for source in (train, old.test)
    )
    each = each_example(opened.experiment.task.objective, policy_of(config))
    predictor = Predictor(opened)
    params, extras = jax.device_get((predictor.params, predictor.extras))
    size = config.data.eval_batch_size or config.data.batch_size
    if not known.length:
        return {"suspects": {"share": None, "method": "none: every new example is of a new class"}}
    new, own = (measure(each, params, extras, source, size) for source in (known, tested))
    names = opened.prepared.info.get("class_names") or ()
    doubts = (doubts_of(task, predictor, source, m.indices, names) for source, m in ((known, new), (tested, own)))
    found = suspects.look(new, own, *doubts)
    lines = suspects.lines(found, new, known, opened, predictor, f"{fresh.section.name} train")
    making.folder.mkdir(parents=True, exist_ok=True)
    suspects.write(making.folder, lines)
    for line in suspects.summary(found, lines):
        tell(line)
    return {
        "suspects": {
            "share": found.share,
            "usual": found.usual,
            "method": found.method,
            "count": int(found.suspect.sum()),
            "examples": len(found.order),
            "worst": lines[: suspects.SHOWN],
        }
    }


def of_known_classes(source: Source, known: int | None, task: str) -> Source:
    """Returns the examples that have no class which a champion does not know; it cannot judge others.

    Args:
      source: the examples, with the numbers of its classes.
      known: number of classes that it knows; None where there are none.
      task: the task's name.
    """
    if known is None:
        return source
    limit = known + (task == "transcribe")  # 0 is the blank of transcripts
    kept = []
    for part in np.array_split(np.arange(source.length), max(1, source.length // _CHUNK)):
        labels = np.asarray(source.take(part)["labels"])
        flat = labels.reshape(len(part), -1)
        bad = flat[:, limit:] > 0 if task == "multilabel" else flat >= limit
        kept.append(part[~bad.any(1)])
    seen = subset(source, np.concatenate(kept))
    if task != "multilabel":
        return seen
    return seen._replace(take=lambda rows: {**(batch := seen.take(rows)), "labels": batch["labels"][:, :known]})


def _judged(
    request: Request, champion: Opened, challenger: Opened, tests: Mapping[str, Source]
) -> tuple[Decision, dict[str, Any]]:
    """Compares both models on both test sets, and decides."""
    task = challenger.config.task.name
    both = side_by_side(champion, challenger, tests)
    metric, mode = headline(challenger, both["new"].champion_figures)
    seed = challenger.config.run.seed
    judged = {name: compared(sides, challenger, metric, mode, seed=seed) for name, sides in both.items()}
    tolerance = request.tolerance
    if tolerance is None:
        tolerance = usual_tolerance(metric, mode, judged["old"].champion)
    decision = decide(metric, judged["new"], judged["old"], tolerance)
    chosen = {"chosen_on": "validation" if challenger.experiment.test is not None else "its end"}
    return decision, {
        "metric": metric,
        "better": mode,
        "tolerance": tolerance,
        "figures": {name: _figures(metric, judged[name], both[name]) for name in both},
        "examples": {name: deciding(both[name], task, f"{name} test") for name in both},
        "challenger": {"step": challenger.step, "checkpoint": challenger.which, **chosen},
        "champion": {"step": champion.step, "checkpoint": champion.which},
    }


def _figures(metric: str, one: Compared, sides: Sides) -> dict[str, Any]:
    return {
        "metric": metric,
        "champion": one.champion,
        "challenger": one.challenger,
        "difference": one.interval.difference,
        "interval": [one.interval.low, one.interval.high],
        "level": one.interval.level,
        "draws": one.interval.draws,
        "examples": one.examples,
        "all": {"champion": sides.champion_figures, "challenger": sides.challenger_figures},
    }
