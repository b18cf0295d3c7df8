"""Metrics by name: sums that add up over batches, or rows that are gathered; one file a kind."""

from jaxprop.metrics.absolute_error import mean_absolute_error
from jaxprop.metrics.accuracy import accuracy, multilabel_accuracy
from jaxprop.metrics.average_precision import average_precision
from jaxprop.metrics.bytes_per_token import bytes_per_token
from jaxprop.metrics.error_rates import error_rates
from jaxprop.metrics.infeasible import infeasible
from jaxprop.metrics.totals import add_up, finished, mean
from jaxprop.types import Metric, Rows

__all__ = [
    "METRICS", "TOKENWISE", "Metric", "Rows", "accuracy", "add_up", "average_precision", "bytes_per_token",
    "error_rates", "finished", "infeasible", "mean", "mean_absolute_error", "multilabel_accuracy",
]  # fmt: skip

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "multilabel_accuracy": multilabel_accuracy,
    "mean_absolute_error": mean_absolute_error,
    "average_precision": average_precision,
    "infeasible": infeasible,
}

TOKENWISE = (accuracy,)  # of an answer a token, those whose totals of parts of the tokens add up
