"""A run opened from Python: its model, predictions, records and summary."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprop.checkpoint import Checkpoints, stored_config
from jaxprop.checkpoint.manifest import read_manifests
from jaxprop.config.build import build
from jaxprop.config.load import load as load_config
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.fit import Settings
from jaxprop.config.tasks import best_mode
from jaxprop.errors import CheckpointError, UsageError, one_of
from jaxprop.run.columns import Columns, columns, read_records
from jaxprop.run.folder import find_run, read_summary
from jaxprop.run.opened import Opened, Which, open_run
from jaxprop.run.predictor import Predictor
from jaxprop.types import Model, PyTree

WHICH = ("best", "newest")


class LoadedRun:
    """A run, as `jaxprop.load` returns it. What is read of it is read at first use and kept.

    `print(run)` shows what it is and how it ended.

    Args:
      folder: the run's folder.
      which: the checkpoint, `"best"` or `"newest"`; None for the best where there is one, else the newest.
      ema: whether `params`, `extras` and `predict` use what the run's evaluations use.
      code: of the user's own that the run names and that may be run.
      average: which of several averages is used; None for that of the evaluation.
    """

    def __init__(
        self, folder: Path, which: Which | None, ema: bool, code: Sequence[str] = (), average: str | None = None
    ):
        self.folder = folder
        self._which, self._ema, self._code, self._average = which, ema, code, average

    @property
    def average(self) -> str | None:
        """The average that is used where it was chosen by its name, or None."""
        return self._average

    @property
    def trained(self) -> bool:
        """Whether the trained parameters are used in place of those that evaluations use."""
        return not self._ema

    # -- the model --------------------------------------------------------------------------------

    @functools.cached_property
    def opened(self) -> Opened:
        """The checkpoint with everything that its configuration stands for."""
        if isinstance(self.config, Settings):
            raise UsageError(
                f"{self.folder.name} is a run of jaxprop.fit, whose model is Python code; the same call of jaxprop.fit "
                "returns its parameters, and jaxprop.load(...) has its records"
            )
        overrides = [] if self._average is None else [f"run.average={self._average}"]
        return open_run(self.folder, overrides, which=self._which, code=self._code)

    def of(self, opened: Opened) -> LoadedRun:
        """Returns the same run with another model, whose state holds no averages: its parameters are what is used."""
        made = LoadedRun(self.folder, self._which, self._ema, self._code, self._average)
        made.opened = opened
        return made

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The compiled predictions."""
        return Predictor(self.opened, ema=self._ema)

    @property
    def model(self) -> Model:
        """The model, as in `run.model.apply(run.params, run.extras, batch, key=None, train=False)`."""
        model = self.opened.experiment.task.model
        assert model is not None  # only a plain loss function has none
        return model

    @property
    def params(self) -> PyTree:
        """The parameters of the checkpoint."""
        return self.predictor.params

    @property
    def extras(self) -> PyTree:
        """What the model carries besides parameters, such as batch statistics."""
        return self.predictor.extras

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self.opened.step

    @property
    def info(self) -> dict[str, Any]:
        """Sizes and names of the training data, such as `classes`, `class_names` and `target_names`."""
        return dict(self.opened.prepared.info)

    def predict(self, batch: Any, **options: Any) -> dict[str, Any]:
        """Predicts the examples of a batch of any size.

        Args:
          batch: arrays by key as the run's batches have them, `[N, ...]` each; or the array of `inputs` alone.
          **options: of the task, such as `beams=4` where it writes text.

        Returns:
          What the task's predictions are, as NumPy arrays `[N, ...]`: for a classification `class`, `probability` and
          `probabilities`, and `label` where the classes have names; for a regression `value`.

        Raises:
          ShapeError: an array does not fit the model.
          CheckpointError: the run has no checkpoint.
        """
        return self.predictor(batch, **options)

    # -- its records ------------------------------------------------------------------------------

    @functools.cached_property
    def config(self) -> Config | Settings:
        """The configuration it was trained with, or the settings of `jaxprop.fit`."""
        try:
            stored = stored_config(self.folder / "checkpoints")
            return build(stored) if "model" in stored else Settings.model_validate(stored)
        except CheckpointError:
            return load_config(self.folder / "config.yaml").config

    @functools.cached_property
    def metrics(self) -> Columns:
        """The records of `metrics.jsonl` as columns: `step`, `split`, `loss` and what else they hold."""
        return columns(read_records(self.folder / "metrics.jsonl"), first=("step", "split", "loss"))

    @functools.cached_property
    def layers(self) -> Columns:
        """The rows of layers in `layers.jsonl` as columns: `step`, `layer`, `grad_norm` and what else they hold."""
        return columns(self._rows("layer"), first=("step", "layer", "grad_norm"))

    @functools.cached_property
    def taps(self) -> Columns:
        """The rows of tapped activations in `layers.jsonl` as columns: `step`, `tap` and what else they hold."""
        return columns(self._rows("tap"), first=("step", "tap"))

    @functools.cached_property
    def alerts(self) -> list[dict[str, Any]]:
        """The lines of `alerts.jsonl`, the responses among them."""
        return read_records(self.folder / "alerts.jsonl")

    @functools.cached_property
    def summary(self) -> dict[str, Any] | None:
        """The contents of `summary.json`; None while the run has not ended."""
        return read_summary(self.folder)

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        return read_records(self.folder / "layers.jsonl", lambda row: kind in row)

    # -- for a person -----------------------------------------------------------------------------

    def __repr__(self) -> str:
        config, summary = self.config, self.summary or {}
        status = summary.get("status", "without a summary: still training, or killed")
        ended = f", step {summary['step']}" if "step" in summary else ""
        size = f", {summary['parameters']:,} parameters" if "parameters" in summary else ""
        lines = [
            f"run {self.folder.name}: {status}{ended} ({self.folder})",
            f"  {_what(config)}{size}",
            *(f"  {name}: {summary[name]}" for name in ("stopped", "outcome", "error") if summary.get(name)),
            *self._checkpoint_lines(),
            "  predict(batch), model, params, extras; metrics, layers, taps, alerts; config, summary",
        ]
        return "\n".join(lines)

    def _checkpoint_lines(self) -> list[str]:
        manifests, section = read_manifests(self.folder / "checkpoints"), self.config.checkpoint
        if not manifests:
            return ["  no checkpoint"]
        best = Checkpoints(self.folder / "checkpoints", best=section.best or "loss", mode=best_mode(self.config)).best()
        chosen = best if self._which != "newest" and best is not None else max(manifests)
        names = {max(manifests): "newest"}
        if best is not None:
            names[best] = "best" if best != max(manifests) else "best and newest"
        lines = []
        for step, name in sorted(names.items()):
            metrics = manifests[step]["metrics"] or {}
            figures = "".join(f"  {key} {value:.4g}" for key, value in metrics.items() if value is not None)
            lines.append(f"  {name} checkpoint, step {step}:{figures}{'  (used here)' if step == chosen else ''}")
        return lines


def _what(config: Config | Settings) -> str:
    if isinstance(config, Settings):
        return "a loss of your own, by jaxprop.fit"
    return f"{config.task.name} {config.data.name} with {config.model.name}, {config.optimizer.name}"


def load(
    run: str | os.PathLike[str],
    *,
    which: Which | None = None,
    ema: bool = True,
    code: Sequence[str] = (),
    average: str | None = None,
) -> LoadedRun:
    """Opens a run for predictions and analysis, in any working directory and without its training data.

    The run may be training at the same time.

    Args:
      run: the run's folder, the name of a run in `runs/`, or `champion:NAME`, the version of a champion that serves.
      which: the checkpoint, `"best"` or `"newest"`; by default the best where one was saved with an evaluation, else
        the newest.
      ema: use the parameters that the run's evaluations use, which are their moving average where one is kept. With
        False they are those that were trained.
      code: files or modules with code of the user's own that the run names and that may be run, such as `my_model.py`.
      average: which of several averages is used, `"swa"` or `"ema_0.99"`; by default the one that was best.

    Returns:
      The run, with `model`, `params`, `extras`, `predict(batch)`, `config`, `info`, `summary`, `alerts`, and the
      columns `metrics`, `layers` and `taps`. Nothing but the folder is looked up before it is used.

    Raises:
      UsageError: there is no such run.
      JaxpropError: the champion is damaged.

    Example:
      >>> load("runs/nowhere")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      jaxprop.errors.UsageError: runs/nowhere: there is no such run folder...
    """
    if which is not None and which not in WHICH:
        raise UsageError(one_of(which, WHICH, "checkpoint"))
    if average is not None and not ema:
        raise UsageError(f"the trained parameters (ema=False, --raw) or the average {average}: give one of them")
    return LoadedRun(find_run(Path(run)).absolute(), which, ema, tuple(code), average)
