"""A run of MLflow."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jaxprop.sinks.sink import Record
from jaxprop.sinks.tracker import Began, Tracker, flat, missing, numbers_of, starting, text, title

if TYPE_CHECKING:
    from jaxprop.config.schema.trackers import Mlflow

KEY = "sinks.mlflow"
_ENDS = {"completed": "FINISHED", "interrupted": "KILLED"}
_UNKNOWN = re.compile(r"[^\w\-. :/]")  # characters that MLflow refuses in names
_MOST_NAME, _MOST_VALUE, _MOST_ALERTS = 250, 500, 100
_MOST_PARAMS, _MOST_METRICS = 100, 1000  # in one request
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_SECONDS = 1.0  # between requests, each of which takes some 20 ms


def check_mlflow(section: Mlflow) -> None:
    """Raises UsageError where MLflow is not installed, or cannot open the store."""
    _client(section)


def begin_mlflow(section: Mlflow, began: Began) -> Tracker:
    """Begins a run of MLflow, or goes on with it.

    Args:
      section: the config's `sinks.mlflow`.
      began: the run.

    Raises:
      UsageError: MLflow refuses it.
    """
    client, uri = _client(section)
    with starting(KEY, "mlflow"):
        from mlflow.entities import Metric, Param, RunTag

        run_id = _resumed(client, began.known)
        if run_id is None:
            experiment = client.get_experiment_by_name(section.project)
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(section.project)
            run_id = client.create_run(experiment_id, run_name=section.name or began.name).info.run_id
            # They cannot be changed, so that a resumed run leaves them as they are.
            params = [Param(_name(key), _cut(value)) for key, value in flat(began.config).items()]
            for first in range(0, len(params), _MOST_PARAMS):
                client.log_batch(run_id, params=params[first : first + _MOST_PARAMS])
    alerts = 0

    waiting: list[Any] = []
    sent = 0.0

    def log(step: int, values: Mapping[str, float]) -> None:
        now = time.time()
        waiting.extend(Metric(_name(key), value, int(1000 * now), step) for key, value in values.items())
        if len(waiting) >= _MOST_METRICS or now - sent >= _SECONDS:
            send()

    def send() -> None:
        nonlocal sent
        for first in range(0, len(waiting), _MOST_METRICS):
            client.log_batch(run_id, metrics=waiting[first : first + _MOST_METRICS])
        waiting.clear()
        sent = time.time()

    def alert(record: Record) -> None:
        nonlocal alerts
        alerts += 1
        if alerts <= _MOST_ALERTS:  # each is a tag; `alerts.jsonl` has all of them
            key = _name(f"alert/{record.get('step')}/{title(record)}".replace(": ", "/"))
            client.set_tag(run_id, key, _cut(text(record)))

    def finish(status: str, summary: Record) -> None:
        told = {"status": status} | {name: summary[name] for name in ("outcome", "stopped") if summary.get(name)}
        client.log_batch(run_id, tags=[RunTag(f"jaxprop.{key}", _cut(value)) for key, value in told.items()])
        if summary.get("best"):
            log(int(summary["best"]["step"]), numbers_of("best", summary["best"]))
        send()
        if "step" in summary:
            client.log_dict(run_id, dict(summary), "summary.json")
        client.set_terminated(run_id, _ENDS.get(status, "FAILED"))

    return Tracker(
        identity={"run_id": run_id}, where=f"mlflow: run {run_id} in {uri}", log=log, alert=alert, finish=finish
    )


def _resumed(client: Any, known: Mapping[str, str]) -> str | None:
    """The run to go on with; None where there is none, or another store is asked than before."""
    from mlflow.exceptions import MlflowException

    if "run_id" not in known:
        return None
    try:
        client.update_run(known["run_id"], status="RUNNING")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return known["run_id"]


def _client(section: Mlflow) -> tuple[Any, str]:
    mlflow = _import()
    with starting(KEY, "mlflow"):
        uri = section.tracking_uri or mlflow.get_tracking_uri()
        try:
            client = mlflow.MlflowClient(tracking_uri=uri)
            with _hasty():
                client.search_experiments(max_results=1)
        except ModuleNotFoundError as error:  # mlflow-skinny knows servers alone
            raise missing(KEY, str(error.name), f"with {uri}", "mlflow") from None
    return client, uri


@contextlib.contextmanager
def _hasty() -> Iterator[None]:
    """Asks a server once or twice, not for the minutes that MLflow takes to give up one that does not answer."""
    given = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = given or "1"
    try:
        yield
    finally:
        if given is None:
            del os.environ[_RETRIES]


def _name(key: str) -> str:
    return _UNKNOWN.sub("_", key)[:_MOST_NAME]


def _cut(value: Any) -> str:
    return str(value)[:_MOST_VALUE]


def _import() -> Any:
    with starting(KEY, "mlflow"):
        try:
            import mlflow
        except ModuleNotFoundError as error:
            if error.name != "mlflow":
                raise
            raise missing(KEY, "mlflow") from None
        if not hasattr(mlflow, "MlflowClient"):  # a folder of that name is found as an empty package
            raise missing(KEY, "mlflow")
        return mlflow
