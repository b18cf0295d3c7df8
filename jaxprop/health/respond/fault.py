"""The fault that is being answered: since when it is known, and how long its answer is waited for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from jaxprop.health.respond.actions import Sign

PATIENCE = 50  # steps that an action has before a fault that lasts is told again, and answered by the next one
RELATED = 200  # steps after that in which an alert still counts as of the same fault
BROKEN = 5  # steps in a row with a broken loss, after which nothing is waited for


@dataclass
class Fault:
    """The newest fault and its newest answer; a step of -1 means that there is none.

    Args:
      answered: what the last action answers.
      patient_until: the last step that this action has to show its effect, while it is waited for.
      since: first sign of the fault.
      related_until: the last step at which a new sign counts as of this fault.
      broken: steps in a row in which the loss was broken although the last action was in force.

    Example:
      >>> fault = Fault()
      >>> fault.answer(Sign(7, None, 3, "unstable", "loss x 2"), due=8)
      >>> fault.waiting, fault.joined(Sign(100, None, 90, "unstable", "loss x 3")).since
      (True, 3)
    """

    answered: Sign | None = None
    patient_until: int = -1
    since: int = -1
    related_until: int = -1
    broken: int = 0

    @property
    def waiting(self) -> bool:
        """Whether the last action has yet to show its effect."""
        return self.patient_until >= 0

    @property
    def acted_at(self) -> int:
        """The step at which the last action took effect, while it is waited for; negative otherwise."""
        return self.patient_until - PATIENCE

    def answer(self, sign: Sign, due: int) -> None:
        """Takes note of an action that is due after a step."""
        self.answered, self.since = sign, sign.since
        self.patient_until = due + PATIENCE
        self.related_until = self.patient_until + RELATED

    def joined(self, sign: Sign) -> Sign:
        """A sign, counted from the first one of the fault that is known, if it may be of it."""
        known = 0 <= self.since < sign.since and sign.step <= self.related_until
        return sign._replace(since=self.since) if known else sign

    def outlasts(self, step: int) -> bool:
        """Whether the last action has had its time, which then is over."""
        over = self.waiting and self.patient_until < step
        if over:
            self.patient_until = -1
        return over

    def in_force(self, step: int) -> Sign | None:
        """What the last action answers, if that has taken effect before a step and is still waited for."""
        return self.answered if self.acted_at < step <= self.patient_until else None

    def breaks_through(self, broken: bool) -> bool:
        """Counts steps with a broken loss while an action is in force; returns whether they end the wait."""
        self.broken = self.broken + 1 if broken else 0
        if self.broken < BROKEN:
            return False
        self.broken, self.patient_until = 0, -1
        return True
