"""Metrics of a batch, as sums that add up over batches; one file a kind."""

from jaxprop.metrics.absolute_error import mean_absolute_error
from jaxprop.metrics.accuracy import accuracy, multilabel_accuracy

__all__ = ["accuracy", "mean_absolute_error", "multilabel_accuracy"]
