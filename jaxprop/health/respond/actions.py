"""Actions: what one answers, the line that says so, and the step after which it is carried out. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Sign(NamedTuple):
    """What an action answers: the alert's step, where, the first step of it, and its sentence."""

    step: int
    layer: str | None
    since: int
    cause: str
    why: str


class Action(NamedTuple):
    """One response, decided on a record and carried out later, at a step that does not depend on when it was read.

    Args:
      name: `clip`, `cut_lr`, `rollback`, `release` (of a cut) or `stop`.
      step: of the record it was decided on.
      due: the step after which it is carried out.
      to: a rollback's checkpoint, else None.
      why: for a person.
    """

    name: str
    step: int
    due: int
    to: int | None
    why: str


class Schedule:
    """The actions that are decided on and not yet carried out.

    Args:
      per_call: S, steps taken in one call.
      total_steps: steps of the run; no action is due later.

    Example:
      >>> schedule = Schedule(per_call=4, total_steps=100)
      >>> due = schedule.next_due(7)
      >>> schedule.pending.append(Action("clip", 7, due, None, "loss x 2"))
      >>> due, schedule.take(11), [action.name for action in schedule.take(12)]
      (12, [], ['clip'])
    """

    def __init__(self, per_call: int, total_steps: int):
        self._per_call, self._total = per_call, total_steps
        self.pending: list[Action] = []

    def next_due(self, step: int) -> int:
        """One call after the call that took a step: its record has been read by then, however early others are."""
        end = -(-step // self._per_call) * self._per_call
        return min(end + self._per_call, self._total)

    def take(self, step: int) -> list[Action]:
        """Returns the actions to carry out after a step, and takes them for done."""
        ready = [action for action in self.pending if action.due <= step]
        self.pending = [action for action in self.pending if action.due > step]
        return ready

    @property
    def targets(self) -> set[int]:
        """The steps that rollbacks are on their way to."""
        return {action.to for action in self.pending if action.to is not None}

    def restore(self, actions: Iterable[Iterable[Any]], known: Iterable[str]) -> None:
        """Goes on with actions of an earlier process; one that is not known was called off by who changed the list."""
        self.pending = [action for action in (Action(*fields) for fields in actions) if action.name in known]


def action_line(sign: Sign, name: str, value: float | None, due: int, message: str) -> dict[str, Any]:
    """Returns the line of `alerts.jsonl` that tells of an action.

    Args:
      sign: what it answers.
      name: of the action.
      value: what it sets, or where it goes back to.
      due: the step after which it is carried out.
      message: for a person.
    """
    return {
        "step": sign.step,
        "kind": "action",
        "action": name,
        "layer": sign.layer,
        "severity": "act",
        "value": value,
        "threshold": None,
        "message": message,
        "since": sign.since,
        "cause": sign.cause,
        "due": due,
    }
