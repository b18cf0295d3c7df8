"""What of a run is due at which step: calls, evaluations, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jaxprop.config.schema.config import Config


class Rhythm(NamedTuple):
    """When a run does what besides stepping, by the step alone.

    Args:
      per_call: S, steps in one call of the compiled step.
      total: steps of the run.
      eval_every: steps between evaluations, or None where there is nothing to evaluate on.
      save_every: steps between checkpoints besides those of evaluations, or None where there are no others.

    Example:
      >>> rhythm = Rhythm(per_call=4, total=10, eval_every=8, save_every=None)
      >>> list(rhythm.call_sizes(0)), [step for step in (4, 8, 10) if rhythm.evaluates(step)]
      ([4, 4, 2], [8, 10])
    """

    per_call: int
    total: int
    eval_every: int | None
    save_every: int | None

    def call_sizes(self, step: int) -> Iterator[int]:
        """Yields how many steps each call takes from a step on."""
        while step < self.total:
            # A run that goes on from a short last call first gets back to whole calls, which the rhythms count in.
            taken = min(self.per_call - step % self.per_call, self.total - step)
            yield taken
            step += taken

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after a step."""
        return self.eval_every is not None and (step == self.total or step % self.eval_every == 0)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after a step."""
        every = self.save_every is not None and step % self.save_every == 0
        return every or step == self.total or self.evaluates(step)


def rhythm_of(config: Config, total: int, batches_per_epoch: int, has_test: bool) -> Rhythm:
    """Returns the rhythm that a configuration asks for.

    Args:
      config: the configuration.
      total: steps of the run.
      batches_per_epoch: of the training data; an epoch is rounded to whole calls.
      has_test: whether there is a split to evaluate on.
    """
    per_call, every = config.run.per_call, config.checkpoint.every_steps
    epoch = max(1, round(batches_per_epoch / per_call)) * per_call
    eval_every = (config.run.eval_every or epoch) if has_test else None
    return Rhythm(per_call, total, eval_every, every or (None if has_test else epoch))
