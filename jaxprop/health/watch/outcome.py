"""How a run ended that has learned nothing: dead, or no better than a trivial predictor or its own start. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

DEAD_FOR = 20  # steps without a gradient in half of the layers after which a network is dead
NO_BETTER = 0.02  # share of the way from a trivial predictor to a perfect one that counts as no better
UNCHANGED = 0.02  # share of the first loss by which a loss has to fall in a run
CONVERGED = 0.01  # share of the first loss that is next to nothing
LEARNED = ("linear",)  # predictors that look at their input, so that a result may be below theirs and still be learned
LOSSES = ("loss", "nats", "perplexity", "error", "wer", "cer")  # ends of the names of what is better when smaller


def trivial(metrics: Mapping[str, Any], reference: Mapping[str, Any]) -> str | None:
    """Says that a result is no better than that of a predictor which does not look at its input; None if it is better.

    Args:
      metrics: the run's results, by name.
      reference: those of trivial predictors, named `<predictor>_<metric>`, such as `majority_accuracy`.

    Example:
      >>> trivial({"accuracy": 0.104}, {"majority_accuracy": 0.103})
      'no better than the majority predictor: accuracy 0.104 against 0.103'
      >>> trivial({"wer": 1.0}, {"empty_wer": 1.0})
      'no better than the empty predictor: wer 1 against 1'
      >>> trivial({"loss": 1.8}, {"unigram_loss": 3.1}) is None
      True
    """
    return next((said for said in _comparisons(metrics, reference) if said is not None), None)


def beats_trivial(metrics: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    """Whether a result is known to be better than that of every trivial predictor there is to compare it with.

    Example:
      >>> beats_trivial({"accuracy": 0.98}, {"majority_accuracy": 0.1}), beats_trivial({"accuracy": 0.98}, {})
      (True, False)
    """
    compared = list(_comparisons(metrics, reference))
    return bool(compared) and not any(compared)


def _comparisons(metrics: Mapping[str, Any], reference: Mapping[str, Any]) -> Iterator[str | None]:
    """For every figure that both have, None where the result is better, otherwise a sentence."""
    for name, known in reference.items():
        predictor, _, metric = name.partition("_")
        value = None if predictor in LEARNED else metrics.get(metric)
        if not (_is_number(value) and _is_number(known)):
            continue
        smaller = metric.endswith(LOSSES)
        better = known - value if smaller else value - known
        room = abs(known) if smaller else 1 - known
        no_better = better <= NO_BETTER * max(room, 0.0)
        said = f"no better than the {predictor} predictor: {metric} {value:.3g} against {known:.3g}"
        yield said if no_better else None


def dead(step: int, since: int, layers: int, of: int) -> str | None:
    """Says that a network is dead; None if it is not.

    Args:
      step: the last step.
      since: the step since which at least half of the layers have had no gradient; 0 if they have one.
      layers: as many layers have none.
      of: number of layers.

    Example:
      >>> dead(500, 310, 3, 4)
      'dead since step 310: the gradient of 3 of 4 layers is exactly zero'
    """
    if not since or step - since + 1 < DEAD_FOR:
        return None
    return f"dead since step {since}: the gradient of {layers} of {of} layers is exactly zero"


def unchanged(first: float, last: float) -> str | None:
    """Says that a loss has not fallen; None if it has.

    Args:
      first: the median of the first losses.
      last: the median of the last ones.

    Example:
      >>> unchanged(2.3, 2.29)
      'no better than at its start: loss 2.29 against 2.3'
    """
    if not (math.isfinite(first) and math.isfinite(last)) or first - last > UNCHANGED * abs(first):
        return None
    return f"no better than at its start: loss {last:.3g} against {first:.3g}"


def converged(first: float, last: float) -> bool:
    """Whether next to nothing is left of a loss; then gradients may be zero because there is nothing left to learn.

    Example:
      >>> converged(2.3, 0.0001), converged(2.3, 2.2)
      (True, False)
    """
    return abs(last) <= CONVERGED * abs(first)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
