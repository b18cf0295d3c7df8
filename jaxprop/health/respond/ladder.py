"""Which action is taken next: those that are listed, in order, and at the end those that can be repeated. Pure."""

from __future__ import annotations

from collections.abc import Sequence

TAKEN = ("raise_scale", "lower_scale", "clip", "cut_lr", "rollback", "stop")  # `skip` acts inside the step alone
OF_THE_SCALE = {"no_loss_scaling": "raise_scale", "loss_scale_falls": "lower_scale"}  # cause -> what answers it
WAIT = 50  # steps before the second rollback, four times as many before each further one
LONGEST_WAIT = 1000


class Ladder:
    """The listed actions, how far a run has come in them, and how often it has gone back.

    Args:
      actions: some of `skip, raise_scale, lower_scale, clip, cut_lr, rollback, stop`.
      tries: rollbacks in a run.

    Attributes:
      names: the actions that are taken outside the step.
      rung: the index of the one to take next.
      rollbacks: those decided on.
      exhausted: nothing could be done any more, and this has been told.

    Example:
      >>> ladder = Ladder(["clip", "cut_lr", "stop"], tries=3)
      >>> ladder.climb("clip")
      >>> ladder.order()
      ['cut_lr', 'stop', 'clip']
    """

    def __init__(self, actions: Sequence[str], tries: int):
        self.names = [name for name in actions if name in TAKEN]
        self.tries = tries
        self.rung = self.rollbacks = 0
        self.exhausted = False

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def order(self, cause: str = "") -> list[str]:
        """Returns the actions to try: onwards, and at the end back to what can be repeated.

        What sets the loss scale answers a cause of its own, before all others, and nothing else.

        Args:
          cause: of what is answered.

        Example:
          >>> Ladder(["clip", "raise_scale"], tries=3).order("no_loss_scaling")
          ['raise_scale', 'clip']
        """
        onwards = self.names[self.rung :]
        usual = [*onwards, *(name for name in reversed(self.names) if name not in onwards)]
        first = [name for name in self.names if name == OF_THE_SCALE.get(cause)]
        return [*first, *(name for name in usual if name not in OF_THE_SCALE.values())]

    def climb(self, name: str) -> None:
        """Goes on to the next action after one was taken; `rollback` is stayed at while it has tries left."""
        onwards = self.names[self.rung :]
        if name in OF_THE_SCALE.values():
            return  # the next fault of another kind is answered as if this had not been
        if name in onwards and not (name == "rollback" and self.may_go_back):
            self.rung = min(self.names.index(name) + 1, len(self.names) - 1)

    @property
    def may_go_back(self) -> bool:
        """Whether there are tries left."""
        return self.rollbacks < self.tries

    @property
    def wait(self) -> int:
        """Steps before the newest rollback, longer each time, so that a bad stretch of data may end before it."""
        return 0 if self.rollbacks < 2 else min(WAIT * 4 ** (self.rollbacks - 2), LONGEST_WAIT)

    def restore(self, rung: int, rollbacks: int, exhausted: bool) -> None:
        """Goes on from where an earlier process was, perhaps with fewer actions listed."""
        self.rung, self.rollbacks, self.exhausted = min(rung, max(len(self.names) - 1, 0)), rollbacks, exhausted
