"""How often the step measures what: from the configuration, or as often as a share of its time allows."""

from __future__ import annotations

import statistics

from jaxprop.config.schema.run import Health
from jaxprop.health.signals.settings import Signals
from jaxprop.parallel.hosts import agree

ROWS_EVERY, RARE_EVERY = 1, 10  # until more is known
INTERVALS = (10, 20, 50, 100)  # between records of all signals, to choose from
NEVER = 2**31 - 1
FULL_CALLS, ROW_CALLS = 4, 20  # calls of each kind that are timed, once compiled


class Pace:
    """Says for every call what its step measures, by the numbers of its steps and a choice made once a run.

    The first call measures everything, whatever the intervals. Where the choice is left to it (`auto`), it goes on with
    rows every step and everything every 10, is told the time of the run's first calls, and takes the shortest interval
    whose cost stays within the budget:

        extra seconds of a call / (interval x seconds of a step without rows) <= budget

    Args:
      section: the config's `health`.
      per_call: S, steps taken in one call.
      scaled: whether there is a loss scale, and with it gradients that it flushes.

    Example:
      >>> pace = Pace(Health(every=2, rare_every=4))
      >>> [pace.detail(step, step) for step in range(1, 6)], pace.measuring
      (['full', 'rows', 'lean', 'full', 'lean'], False)
    """

    def __init__(self, section: Health, per_call: int = 1, scaled: bool = False):
        self._section, self._per_call = section, per_call
        self._flush_every = Signals().flush_every if scaled else NEVER
        # Of few long calls each would hold a multiple of 10, and none show what a call without costs.
        start = RARE_EVERY if per_call <= RARE_EVERY // 2 else 2 * per_call
        every = ROWS_EVERY if section.every == "auto" else section.every
        rare = section.rare_every
        if rare == "auto":
            rare = start if section.every == "auto" else RARE_EVERY
        self._choice = self._every(every, rare)
        self.measuring = section.layers and section.every == "auto"
        self._seconds: dict[str, list[float]] = {"rows": [], "full": []}

    def _every(self, every: int, rare: int) -> Signals:
        return Signals(every=every, rare_every=rare, flush_every=self._flush_every)

    def detail(self, first: int, last: int) -> str:
        """What the call that takes steps `first..last` measures: everything in the first one, else `Signals.detail`."""
        if not self._section.layers:
            return "lean"
        if first == 1:  # what is wrong from the start is seen at once; the program compiles a few steps early
            return "full" if self._flush_every == NEVER else "flush"
        return self._choice.detail(first, last)

    def logged(self, step: int, log_every: int, total: int) -> tuple[bool, bool]:
        """Whether a step is the last one up to the next log step that has rows, and that measures everything.

        Example:
          >>> pace = Pace(Health(every=1, rare_every=20))
          >>> [(step, pace.logged(step, 50, 100)) for step in (20, 40, 50)]
          [(20, (False, False)), (40, (False, True)), (50, (True, True))]
        """
        if step <= self._per_call:
            return True, True  # of the first call, the only one whose interval is its own
        log_step = min(-(-step // log_every) * log_every, total)

        def following(every: int) -> int:
            return -(-(step // every + 1) * every // self._per_call) * self._per_call

        full = following(self._choice.rare_every)
        return min(following(self._choice.every), full) > log_step, full > log_step

    def book(self, detail: str, seconds: float) -> bool:
        """Takes in the time of a call, its first one apart; returns whether enough is known to choose."""
        self._seconds.setdefault(detail, []).append(seconds)
        enough_full = self._section.rare_every != "auto" or len(self._seconds["full"]) >= FULL_CALLS
        return enough_full and len(self._seconds["rows"]) >= ROW_CALLS

    def choose(self) -> str:
        """Makes the choice, and returns it as a line for a person.

        Example:
          >>> pace = Pace(Health())
          >>> _ = [pace.book("full", 0.0118) for _ in range(4)], [pace.book("rows", 0.010) for _ in range(20)]
          >>> pace.choose()
          'health: gradient norms of the layers every step, all signals every 20 steps (0.9 % of the time)'
        """
        budget, fixed = self._section.budget, self._section.rare_every
        call = statistics.median(self._seconds["rows"])
        extra = max(statistics.median(self._seconds["full"] or [call]) - call, 0.0) * self._per_call / call
        shortest = next((n for n in INTERVALS if extra / max(n, self._per_call) <= budget), INTERVALS[-1])
        # Processes whose steps measure different things would run different programs.
        rare = agree("pace", shortest) if fixed == "auto" else fixed
        self._choice = self._every(ROWS_EVERY, rare)
        self.measuring = False
        share = 100 * extra / max(rare, self._per_call)
        how_often = f"every step, all signals every {rare} steps ({share:.2g} % of the time)"
        return f"health: gradient norms of the layers {how_often}"

    def state(self) -> list[int] | None:
        """Returns the choice, or None where none has been made by measuring."""
        made = self._section.layers and self._section.every == "auto" and not self.measuring
        return [self._choice.every, self._choice.rare_every] if made else None

    def restore(self, choice: list[int] | None) -> None:
        """Goes on with the choice that a run has made before."""
        if choice is not None and self.measuring:
            every, rare = choice
            fixed = self._section.rare_every
            self._choice = self._every(every, rare if fixed == "auto" else fixed)
            self.measuring = False
