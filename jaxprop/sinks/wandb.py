"""A run of Weights & Biases."""

from __future__ import annotations

import datetime
import os
import re
from typing import TYPE_CHECKING, Any

from jaxprop.errors import UsageError
from jaxprop.sinks.sink import Record
from jaxprop.sinks.tracker import Began, Tracker, flat, level, missing, quiet, starting, text, title

if TYPE_CHECKING:
    from jaxprop.config.schema.trackers import Wandb

KEY = "sinks.wandb"
_SPLITS = ("train", "eval", "test", "layers", "taps")
_FINISH_SECONDS = 45.0  # less than what the sink is waited for at its end


def check_wandb(section: Wandb) -> None:
    """Raises UsageError where W&B is not installed, or is online and nobody is logged in."""
    wandb = _import()
    if _mode(section) != "online":
        return
    with starting(KEY, "wandb"):
        try:
            logged_in = wandb.login(prompt=False, verify=False)
        except TypeError:  # older versions cannot be kept from asking
            logged_in = bool(wandb.api.api_key)
    if not logged_in:
        raise UsageError(
            f"{KEY}: nobody is logged in to Weights & Biases; run 'wandb login', set WANDB_API_KEY, or write the run's "
            f"records to its folder with {KEY}.mode=offline"
        )


def begin_wandb(section: Wandb, began: Began) -> Tracker:
    """Begins a run of W&B, or goes on with it.

    Args:
      section: the config's `sinks.wandb`.
      began: the run.

    Raises:
      UsageError: W&B refuses it.
    """
    wandb, mode = _import(), _mode(section)
    known = began.known.get("id", "")  # from a file that may be anyone's
    # Nothing is asked or printed, and the streams stay as they are: others have replaced them.
    settings: dict[str, Any] = {"silent": True, "console": "off", "finish_timeout": _FINISH_SECONDS}
    with starting(KEY, "wandb", f", write to the run's folder with {KEY}.mode=offline" * (mode == "online")):
        fields = wandb.Settings.model_fields
        run = wandb.init(
            project=section.project, entity=section.entity, name=section.name or began.name, mode=mode,
            dir=str(began.folder), config=dict(began.config), id=known if re.fullmatch(r"[\w-]+", known) else None,
            resume="allow",
            # Other runs of this process, of a sweep or of the user's own, are left alone.
            reinit="create_new",
            settings=wandb.Settings(**{name: value for name, value in settings.items() if name in fields}),
        )  # fmt: skip
        # W&B drops what is logged for a step that lies behind, as after a rollback: its own step just counts calls.
        run.define_metric("step")
        for split in _SPLITS:
            run.define_metric(f"{split}/*", step_metric="step")

    def alert(record: Record) -> None:
        # Otherwise one of the same title within a minute would be lost.
        at_once = datetime.timedelta(milliseconds=1)
        run.alert(title(record), text(record), level=wandb.AlertLevel[level(record)], wait_duration=at_once)

    def finish(status: str, summary: Record) -> None:
        run.summary.update({**flat(summary, "/"), "status": status})
        with quiet():
            run.finish(exit_code=0 if status == "completed" else 1)

    return Tracker(
        identity={"id": run.id},
        where=_where(run, mode),
        log=lambda step, values: run.log({"step": step, **values}),
        alert=alert,
        finish=finish,
    )


def _where(run: Any, mode: str) -> str:
    if mode == "online":
        return f"wandb: {run.url}"
    return f"wandb: {mode}, in {run.dir.removesuffix('/files')}"


def _mode(section: Wandb) -> str:
    said = section.mode or os.environ.get("WANDB_MODE") or "online"
    return {"dryrun": "offline", "run": "online"}.get(said, said)


def _import() -> Any:
    with starting(KEY, "wandb"):
        try:
            import wandb
        except ModuleNotFoundError as error:
            if error.name != "wandb":
                raise
            raise missing(KEY, "wandb") from None
        if not hasattr(wandb, "init"):  # a folder of that name, where W&B keeps runs, is found as a package without it
            raise missing(KEY, "wandb")
        return wandb
