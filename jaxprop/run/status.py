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


OPEN = (Status.RUNNING, Status.UNFINISHED)  # of a run that has no summary yet
