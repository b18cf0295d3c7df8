"""How a run stands or ended, by the words that `summary.json` and the report use."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """How a run stands or ended.

    A run writes one of the first four into its `summary.json`; where there is none, the report says one of `OPEN`.

    Example:
      >>> Status("diverged") is Status.DIVERGED, Status.DIVERGED == "diverged"
      (True, True)
    """

    COMPLETED = "completed"
    INTERRUPTED = "interrupted"  # after saving; the same command goes on from there
    DIVERGED = "diverged"
    FAILED = "failed"  # by an error
    STOPPED_EARLY = "stopped_early"  # the report has words for it; no run writes it yet
    RUNNING = "running"  # its process holds the folder
    UNFINISHED = "unfinished"  # nobody holds the folder: killed, or written on another machine


LAST: dict[str, str] = {
    Status.COMPLETED: "completed all the same",
    Status.INTERRUPTED: "was interrupted",
    Status.STOPPED_EARLY: "stopped early",
}
OPEN = (Status.RUNNING, Status.UNFINISHED)  # of a run that has no summary yet


def headline(said: str, status: str, step: int) -> str:
    """Returns the first sentence about a run that has something wrong with it, as the terminal and the report print it.

    Args:
      said: what is wrong.
      status: how the run ended.
      step: its last step.

    Example:
      >>> headline("dead since step 31: the gradient of 3 of 4 layers is exactly zero", "diverged", 60)
      'Dead since step 31: the gradient of 3 of 4 layers is exactly zero; the run diverged at step 60.'
    """
    how = LAST.get(status, status)
    at = "" if status == Status.COMPLETED else f" at step {step:,}"
    return f"{said[:1].upper()}{said[1:]}; the run {how}{at}."
