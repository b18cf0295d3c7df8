"""What the sinks of trackers share: a thread that keeps what a tracker does, and its failures, from the run."""

from __future__ import annotations

import contextlib
import numbers
import queue
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.errors import UsageError, printable
from jaxprop.sinks.sink import Record, Sink

MOST_WAITING = 10_000  # records; a tracker that is so far behind hangs
CLOSE_SECONDS = 60.0  # for what is pending at the end of a run
_MOST_SAID = 300  # characters of an error
_silence = threading.Lock()  # `sys.stdout` is the process's, and two that replaced it at once would lose it


class Tracker(NamedTuple):
    """One run of a tracker. The functions are called one after another by a thread of their own, and may fail.

    Args:
      identity: what a resumed run needs to go on with the same run of the tracker, as `tracker.json` keeps it.
      where: a line that says where the run can be seen.
      log: `(step, {name: value})`; steps may come again, after a rollback or a resume.
      alert: takes a line of `alerts.jsonl`.
      finish: `(status, summary)`, once, at the end; `summary` is what `summary.json` holds, or empty for a run that
        failed.
    """

    identity: Mapping[str, str]
    where: str
    log: Callable[[int, dict[str, float]], None]
    alert: Callable[[Record], None]
    finish: Callable[[str, Record], None]


class Began(NamedTuple):
    """What a tracker is told when a run begins.

    Args:
      folder: of the run.
      name: of the run, for people.
      config: the resolved configuration, as JSON values.
      known: the `identity` of the tracker's run that this one goes on with; empty for a new one.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    known: Mapping[str, str]


def guarded(
    key: str, tracker: Tracker, *, layers: bool, warn: Callable[[str], None], seconds: float = CLOSE_SECONDS
) -> Sink:
    """Returns a sink whose calls cost a place in a queue, and that never fails: a tracker that does is given up.

    Args:
      key: of the configuration, such as `sinks.wandb`.
      tracker: takes what is written.
      layers: whether it is sent rows of layers and taps.
      warn: takes the one sentence about a failure; called by any thread.
      seconds: to wait for the tracker at the end.

    Example:
      >>> tracker = Tracker({}, "", lambda step, values: print(step, values), print, lambda status, _: print(status))
      >>> sink = guarded("sinks.mine", tracker, layers=False, warn=print)
      >>> sink.write({"step": 5, "split": "train", "loss": 0.5})
      >>> sink.close()
      5 {'train/loss': 0.5}
      failed
    """
    worker = _Worker(key, tracker, warn, seconds)

    def write(record: Record) -> None:
        worker.put(tracker.log, record["step"], numbers_of(record["split"], record))

    def rows(given: Sequence[Record]) -> None:
        values: dict[str, float] = {}
        for row in given:
            values |= numbers_of(f"taps/{row['tap']}" if "tap" in row else f"layers/{row['layer']}", row)
        if values:
            worker.put(tracker.log, given[0]["step"], values)

    sink = Sink(
        write=write,
        alert=lambda alert: worker.put(tracker.alert, dict(alert)),
        close=worker.close,
        summary=worker.ends_as,
    )
    return sink._replace(layers=rows) if layers else sink


class _Worker:
    """Calls a tracker in a thread, so that neither its network nor its errors reach the loop."""

    def __init__(self, key: str, tracker: Tracker, warn: Callable[[str], None], seconds: float):
        self._key, self._tracker, self._warn, self._seconds = key, tracker, warn, seconds
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._summary: Record = {"status": "failed"}  # of a run that does not come to its end
        self._given_up = self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"jaxprop-{key}", daemon=True)
        self._thread.start()

    def put(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._given_up or self._closed:
            return
        if self._calls.qsize() >= MOST_WAITING:
            self._give_up(f"it is {MOST_WAITING} records behind")
            return
        self._calls.put((call, arguments))

    def ends_as(self, summary: Record) -> None:
        self._summary = dict(summary)

    def close(self) -> None:
        """Waits for what is pending; a run that is rescued by its watchdog closes its sinks in another thread, too."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._calls.put((self._tracker.finish, (str(self._summary.get("status")), self._summary)))
            self._calls.put(None)
        self._thread.join(self._seconds)
        if first and self._thread.is_alive() and not self._given_up:
            self._give_up(f"it has not finished in {self._seconds:g} s")

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            if self._given_up:
                continue
            call, arguments = item
            try:
                call(*arguments)
            except BaseException as error:  # some end the process from within, and none may end a run
                self._give_up(sentence(error))

    def _give_up(self, why: str) -> None:
        with self._lock:
            first, self._given_up = not self._given_up, True
        if first:
            self._warn(f"warning: {self._key}: {why}; the run goes on without it")


def numbers_of(prefix: str, record: Record) -> dict[str, float]:
    """Returns the numbers of a record under the names that they have in TensorBoard, too.

    Example:
      >>> numbers_of("eval", {"step": 5, "split": "eval", "loss": 0.5, "best": None})
      {'eval/loss': 0.5}
    """
    return {
        f"{prefix}/{name}": float(value)
        for name, value in record.items()
        if name != "step" and isinstance(value, numbers.Real)
    }


def flat(tree: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Returns a tree of mappings as one mapping of dotted names; lists stay whole, and what is unset is left out.

    Example:
      >>> flat({"run": {"steps": 10, "stop": None}, "sizes": [1, 2]})
      {'run.steps': 10, 'sizes': [1, 2]}
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= {f"{name}{separator}{inner}": item for inner, item in flat(value, separator).items()}
        elif value is not None:
            found[name] = value
    return found


def title(alert: Record, most: int = 60) -> str:
    """Returns what an alert or a response is about, in a few words.

    Example:
      >>> title({"step": 5, "kind": "spike", "layer": "head", "severity": "act", "message": "..."})
      'spike: head'
    """
    what = alert.get("action") or alert.get("kind") or "alert"
    return printable(f"{what}: {alert['layer']}" if alert.get("layer") else str(what))[:most]


def text(alert: Record) -> str:
    """Returns an alert as a line of text."""
    return printable(f"step {alert.get('step')}: {alert.get('message')}")


def level(alert: Record) -> str:
    """Returns how bad an alert is, in the words of W&B and Trackio: responses and advice are less than `act`."""
    if alert.get("action"):
        return "INFO"
    return "ERROR" if alert.get("severity") == "act" else "WARN"


def sentence(error: BaseException) -> str:
    """Returns the kind of an error and its first line, which some make as long as a page.

    Example:
      >>> sentence(OSError("no route to host.\\nmore"))
      'OSError: no route to host'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return printable(said if len(said) <= _MOST_SAID else f"{said[:_MOST_SAID]} ...").rstrip(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what a tracker prints from the terminal, where `--json` has its place."""
    with _silence, contextlib.redirect_stdout(_Nowhere()), contextlib.redirect_stderr(_Nowhere()):
        yield


@contextlib.contextmanager
def starting(key: str, package: str, instead: str = "") -> Iterator[None]:
    """Around what imports a tracker and opens its run: warnings of its own end nothing, and errors are one sentence.

    Args:
      key: of the configuration.
      package: what is imported.
      instead: another way than to leave it out.

    Raises:
      UsageError: the package is not installed, or does not begin.
    """
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{key}: {package} has not begun a run ({sentence(error)}); see to that{instead}, "
            f"or leave it out with {key}=false"
        ) from error


def missing(key: str, package: str, what: str = "", install: str | None = None) -> UsageError:
    """Returns the error of a tracker that is not installed.

    Example:
      >>> print(missing("sinks.wandb", "wandb"))
      sinks.wandb needs the package 'wandb', which is not installed; install it with: pip install wandb
    """
    of = f" {what}" if what else ""
    return UsageError(
        f"{key}{of} needs the package {package!r}, which is not installed; install it with: pip install "
        f"{install or package}"
    )


class _Nowhere:
    """A stream that drops what is written; unlike the null device it needs no descriptor that has to be closed."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False
