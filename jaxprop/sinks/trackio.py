"""A run of Trackio."""

from __future__ import annotations

import contextvars
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxprop.sinks.sink import Record
from jaxprop.sinks.tracker import Began, Tracker, level, missing, numbers_of, quiet, starting, text, title

if TYPE_CHECKING:
    from jaxprop.config.schema.trackers import Trackio

KEY = "sinks.trackio"


def check_trackio(_section: Trackio) -> None:
    """Raises UsageError where Trackio is not installed."""
    _import()


def begin_trackio(section: Trackio, began: Began) -> Tracker:
    """Begins a run of Trackio, or goes on with it.

    Args:
      section: the config's `sinks.trackio`.
      began: the run.

    Raises:
      UsageError: Trackio refuses it.
    """
    trackio = _import()
    goes_on = began.known.get("project") == section.project and "name" in began.known
    name = began.known["name"] if goes_on else section.name or began.name
    begin = partial(
        trackio.init, project=section.project, name=name, config=dict(began.config), embed=False,
        resume="allow" if goes_on else "never",
    )  # fmt: skip
    with starting(KEY, "trackio"):
        # In a context of its own: otherwise it would end a run that the user's program has begun.
        run: Any = contextvars.copy_context().run(_alone, trackio, begin)
    last = 0

    def log(step: int, values: dict[str, float]) -> None:
        nonlocal last
        last = step
        run.log(values, step=step)

    def alert(record: Record) -> None:
        if hasattr(run, "alert"):
            with quiet():  # it prints them
                run.alert(
                    title(record), text(record), level=trackio.AlertLevel[level(record)], step=int(record["step"])
                )
        else:
            run.log({"alert": f"{title(record)}: {text(record)}"}, step=int(record["step"]))

    def finish(status: str, summary: Record) -> None:
        best = numbers_of("best", summary.get("best") or {})
        run.log({"status": status, **best}, step=int(summary.get("step") or last))
        with quiet():
            run.finish()

    return Tracker(
        identity={"project": section.project, "name": run.name},
        where=f"trackio: run {run.name!r} of the project {section.project!r}; 'trackio show' opens it",
        log=log,
        alert=alert,
        finish=finish,
    )


def _alone(trackio: Any, begin: Any) -> Any:
    trackio.context_vars.current_run.set(None)
    return begin()


def _import() -> Any:
    with starting(KEY, "trackio"):
        try:
            import trackio
        except ModuleNotFoundError as error:
            if error.name != "trackio":
                raise
            raise missing(KEY, "trackio") from None
        if not hasattr(trackio, "init"):  # a folder of that name is found as an empty package
            raise missing(KEY, "trackio")
        return trackio
