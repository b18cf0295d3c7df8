"""Scikit-learn's linear model on the same rows: the figure that a network on a table has to beat."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxprop.data.order import permutation
from jaxprop.types import Source

ROWS, FEATURES, CLASSES = 20_000, 2_000, 100  # beyond these a fit would take as long as training
METRICS = {"classify": "accuracy", "regress": "mean_absolute_error"}
_CHUNK = 2**14
_SEED = 0


class Linear(NamedTuple):
    """A linear model, `scores = x coefficients + intercept`.

    Args:
      coefficients: `[F, K]`, one column a class or a target.
      intercept: `[K]`.
    """

    coefficients: np.ndarray
    intercept: np.ndarray


def fit(train: Source, task: str) -> Linear | None:
    """Fits scikit-learn's `LogisticRegression` or `Ridge`, with its own defaults, to the inputs a network is given.

    Scikit-learn is imported here, which takes a second or two: a run does this at its end, once the figures that it
    is to be compared with are known.

    Args:
      train: the training split; at most `ROWS` rows of it are used, drawn by a fixed seed.
      task: `"classify"` or `"regress"`.

    Returns:
      The model; None of another task, where there are more than `FEATURES` features or `CLASSES` classes, and where
      the training rows have a single class.
    """
    if task not in METRICS or train.info.get("classes", 0) > CLASSES:
        return None
    rows = np.sort(permutation(train.length, _SEED)[:ROWS])
    batch = train.take(rows)
    inputs, labels = batch["inputs"], batch["labels"]
    if inputs.ndim != 2 or not 0 < inputs.shape[1] <= FEATURES or (task == "classify" and len(np.unique(labels)) < 2):
        return None
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that has not converged is a figure, too
        if task == "regress":
            ridge = Ridge().fit(inputs.astype(np.float64), labels)
            return Linear(ridge.coef_.reshape(-1, inputs.shape[1]).T, np.atleast_1d(ridge.intercept_))
        logistic = LogisticRegression(max_iter=1000).fit(inputs.astype(np.float64), labels)
    return _by_class(logistic, train.info["classes"])


def _by_class(fitted: Any, classes: int) -> Linear:
    """Scores of all classes; one that no row had never wins."""
    coefficients = np.zeros((fitted.coef_.shape[1], classes))
    intercept = np.full(classes, -np.inf)
    binary = len(fitted.coef_) == 1  # scikit-learn keeps the second class alone, and the first one's score is 0
    weights = np.concatenate([np.zeros_like(fitted.coef_), fitted.coef_]) if binary else fitted.coef_
    offsets = np.concatenate([[0.0], fitted.intercept_]) if binary else fitted.intercept_
    coefficients[:, fitted.classes_] = weights.T
    intercept[fitted.classes_] = offsets
    return Linear(coefficients, intercept)


def figure(model: Linear, source: Source, task: str) -> float:
    """Returns the accuracy of a linear model on a split, or its mean absolute error in the targets' own units.

    Args:
      model: of `fit`.
      source: the split.
      task: `"classify"` or `"regress"`.

    Example:
      >>> source = Source(2, lambda i: {"inputs": np.ones((2, 1)), "labels": np.array([[3.0], [4.0]])}, {}, "")
      >>> figure(Linear(np.array([[2.0]]), np.array([1.0])), source, "regress")
      0.5
    """
    std = np.array([std for _, std in source.info.get("target_scale", [[0.0, 1.0]])])
    total = 0.0
    for start in range(0, source.length, _CHUNK):
        batch = source.take(np.arange(start, min(start + _CHUNK, source.length)))
        scores = batch["inputs"].astype(np.float64) @ model.coefficients + model.intercept
        if task == "classify":
            total += float(np.sum(scores.argmax(1) == batch["labels"]))
        else:
            total += float(np.sum(np.mean(np.abs(scores - batch["labels"]) * std, axis=1)))
    return total / source.length


def references(model: Linear | None, task: str, validation: Source | None, test: Source | None) -> dict[str, float]:
    """Returns the figures of a linear model by the names that a summary gives references.

    Args:
      model: of `fit`.
      task: `"classify"` or `"regress"`.
      validation: the split that the run's evaluations use.
      test: the split for the end alone, where there is one.

    Example:
      >>> references(None, "classify", None, None)
      {}
    """
    if model is None:
        return {}
    named: Mapping[str, Source | None] = {"linear": validation, "linear_test": test}
    return {f"{name}_{METRICS[task]}": figure(model, source, task) for name, source in named.items() if source}
