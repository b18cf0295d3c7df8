"""What a search draws next: Optuna's samplers and pruners, on a storage that several machines may share."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxprop.errors import JaxpropError, MissingExtraError, UsageError, one_of
from jaxprop.run.swept import written
from jaxprop.tools.sweep.grid import Axis, Span

SAMPLERS = ("tpe", "cmaes", "random")
FILE = "search.db"
SEEDS = 2**32  # that NumPy's generators take
KEPT = 3  # of so many settings, halving lets one go on to three times as many evaluations


class Asked(NamedTuple):
    """A setting that is to be tried.

    Args:
      number: of the trial in the storage.
      setting: key -> value.
    """

    number: int
    setting: Mapping[str, Any]


LISTED = 5  # tables of another program's database that a message names


class Study:
    """A search that is kept in a storage.

    Args:
      spans: ranges that values are drawn from.
      axes: lists that they are chosen from.
      sampler: one of `SAMPLERS`.
      better: whether smaller or larger values of the metric are better.
      seed: of the sampler.
      storage: an URL, or a file for SQLite.
      name: of the study in the storage.
      about: what the study is of; one of the same name that is of something else is refused.
      here: what tells this machine and folder from others that share the storage.
      halving: whether runs are ended that are behind others after as many evaluations.

    Raises:
      MissingExtraError: Optuna is not installed.
      UsageError: the storage cannot be used, or holds another study of this name.

    Reference:
      Akiba et al., Optuna, KDD 2019. https://arxiv.org/abs/1907.10902; Jamieson and Talwalkar, Non-stochastic best arm
      identification, 2016 (successive halving). https://arxiv.org/abs/1502.07943
    """

    def __init__(
        self, spans: Sequence[Span], axes: Sequence[Axis], *, sampler: str, better: Literal["min", "max"], seed: int,
        storage: str, name: str, about: Mapping[str, Any], here: str, halving: bool = False,
    ):  # fmt: skip
        self._optuna, self._spans, self._axes, self._storage = _optuna(sampler), spans, axes, storage
        self._check(sampler)
        direction = "minimize" if better == "min" else "maximize"
        pruner: Any = self._optuna.pruners.NopPruner()
        if halving:
            pruner = self._optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=KEPT)
        self._held: Any = None
        with self._asking():
            _refuse_foreign(storage)
            self._held = self._optuna.storages.RDBStorage(_url(storage))
            made = self._optuna.create_study(
                storage=self._held, study_name=name, direction=direction, pruner=pruner, load_if_exists=True
            )
            made.sampler = self._sampler(sampler, (seed + len(made.trials)) % SEEDS)
            known = made.user_attrs.get("about")
            if known is None:
                made.set_user_attr("about", dict(about))
        if known is not None:
            try:
                self._check_same(known, about)
            except UsageError:
                self.close()
                raise
        self._study, self._here = made, here
        self._trials: dict[int, Any] = {}
        self._ask_again()

    def _check(self, sampler: str) -> None:
        if sampler == "cmaes" and self._axes:
            raise UsageError(
                f"--search cmaes draws numbers alone, and {self._axes[0].key} has a list of values; use --search tpe"
            )

    def _check_same(self, known: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        for name, value in about.items():
            if json.dumps(known.get(name)) != json.dumps(value):
                raise UsageError(
                    f"{self._storage} holds another search, whose {name} is {json.dumps(known.get(name))} and not "
                    f"{json.dumps(value)}; choose another --storage or --run DIR"
                )

    def _sampler(self, name: str, seed: int) -> Any:
        samplers = self._optuna.samplers
        if name == "tpe":
            return samplers.TPESampler(seed=seed)
        return samplers.CmaEsSampler(seed=seed) if name == "cmaes" else samplers.RandomSampler(seed=seed)

    def close(self) -> None:
        """Lets go of the storage; nothing is asked afterwards."""
        if self._held is not None:
            self._held.remove_session()
            self._held.engine.dispose()

    def _ask_again(self) -> None:
        """Settings whose runs were not finished come first; their runs go on from their checkpoints."""
        states = self._optuna.trial.TrialState
        with self._asking():
            for trial in self._study.get_trials(states=[states.RUNNING]):
                if trial.user_attrs.get("here") == self._here:
                    self._study.enqueue_trial(trial.params)
                    self._study.tell(trial.number, state=states.FAIL)

    @property
    def ended(self) -> int:
        """How many settings have been tried, on all machines."""
        states = self._optuna.trial.TrialState
        with self._asking():
            return len(self._study.get_trials(deepcopy=False, states=[states.COMPLETE, states.PRUNED]))

    def ask(self) -> Asked:
        """Returns the next setting."""
        with self._asking():
            trial = self._study.ask()
            trial.set_user_attr("here", self._here)
            setting: dict[str, Any] = {}
            for span in self._spans:
                if span.form == "int":
                    setting[span.key] = trial.suggest_int(span.key, int(span.low), int(span.high))
                else:
                    value = trial.suggest_float(span.key, span.low, span.high, log=span.form == "log")
                    setting[span.key] = span.drawn(value)
            for axis in self._axes:
                words = [written(value) for value in axis.values]
                setting[axis.key] = axis.values[words.index(trial.suggest_categorical(axis.key, words))]
        self._trials[trial.number] = trial
        return Asked(trial.number, setting)

    def is_behind(self, number: int, value: float) -> bool:
        """Notes an evaluation, and returns whether the run is to end.

        Args:
          number: of the trial.
          value: of the metric.
        """
        trial = self._trials[number]
        with self._asking():
            known = self._study.get_trials(deepcopy=False)[number].intermediate_values
            trial.report(value, len(known) + 1)
            return math.isfinite(value) and bool(trial.should_prune())

    def tell(self, number: int, value: float | None) -> None:
        """Notes how a setting has ended.

        Args:
          number: of the trial.
          value: the mean of the metric; None where it was lost or ended early, which the samplers avoid from then on.
        """
        state = self._optuna.trial.TrialState
        with self._asking():
            if value is None:
                self._study.tell(number, state=state.PRUNED)
            else:
                self._study.tell(number, value)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Has what goes wrong with the storage told in a sentence."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Optuna, on what is experimental in it
                yield
        except JaxpropError:
            raise
        except Exception as error:
            self.close()
            told = str(error).strip().splitlines()
            raise UsageError(
                f"{self._storage}: Optuna cannot use this storage ({told[0] if told else type(error).__name__}); "
                "choose another file with --storage, or remove this one if it is of no use"
            ) from error


def _url(storage: str) -> str:
    return storage if "://" in storage else f"sqlite:///{Path(storage).expanduser()}"


def _refuse_foreign(storage: str) -> None:
    """Refuses an SQLite file of another program, to which Optuna would add its tables."""
    path = Path(storage).expanduser()
    if "://" in storage or not path.is_file() or not path.stat().st_size:
        return
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if tables and "studies" not in tables:
        listed = ", ".join(tables[:LISTED])
        raise UsageError(
            f"{storage} is a database of another program, with the tables {listed}; choose another file with --storage"
        )


def _optuna(sampler: str) -> Any:
    if sampler not in SAMPLERS:
        raise UsageError(f"--search: {one_of(sampler, SAMPLERS, 'way to search')}")
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "--search") from error
    if sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise MissingExtraError("cmaes", "--search cmaes")
    optuna.logging.set_verbosity(logging.ERROR)
    return optuna
