"""The linear model's figures are scikit-learn's own, and those of no other rows than the training's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from jaxprop.tasks import linear
from jaxprop.types import Source

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3)).astype(np.float32)


def source(x, y, **info):
    return Source(len(x), lambda i: {"inputs": x[i], "labels": y[i]}, info, "")


@pytest.mark.parametrize("classes", [2, 3])
def test_the_accuracy_is_that_of_logistic_regression(classes):
    labels = (np.digitize(X[:, 0] + 0.5 * RNG.normal(size=80), [-0.4, 0.4][: classes - 1])).astype(np.int32)
    train, test = source(X[:60], labels[:60], classes=classes), source(X[60:], labels[60:], classes=classes)
    found = linear.references(linear.fit(train, "classify"), "classify", test, train)
    model = LogisticRegression(max_iter=1000).fit(X[:60].astype(np.float64), labels[:60])
    assert found == {
        "linear_accuracy": pytest.approx(model.score(X[60:], labels[60:])),
        "linear_test_accuracy": pytest.approx(model.score(X[:60], labels[:60])),
    }


def test_the_error_is_that_of_ridge_in_the_targets_units():
    targets = np.stack([X[:, 0] + 0.1 * X[:, 1] ** 2, 3 * X[:, 2]], 1).astype(np.float32)
    train, test = (
        source(X[part], targets[part], target_scale=[[5.0, 2.0], [0.0, 10.0]]) for part in (slice(60), slice(60, None))
    )
    found = linear.references(linear.fit(train, "regress"), "regress", test, None)
    errors = np.abs(Ridge().fit(X[:60].astype(np.float64), targets[:60]).predict(X[60:]) - targets[60:]) * [2, 10]
    assert found == {"linear_mean_absolute_error": pytest.approx(errors.mean(), rel=1e-5)}


def test_a_class_without_a_training_row_never_wins():
    labels = (X[:, 0] > 0).astype(np.int32) * 2
    model = linear.fit(source(X, labels, classes=4), "classify")
    scores = X @ model.coefficients + model.intercept
    assert set(scores.argmax(1).tolist()) == {0, 2}


@pytest.mark.parametrize(
    ("train", "task"),
    [
        (source(X, np.zeros(80, np.int32), classes=2), "classify"),
        (source(X, np.zeros(80, np.int32), classes=101), "classify"),
        (source(X, np.zeros((80, 2), np.float32)), "multilabel"),
        (source(X.reshape(80, 3, 1), np.zeros((80, 1), np.float32)), "regress"),
        (source(np.zeros((80, 2001), np.float32), np.zeros((80, 1), np.float32)), "regress"),
    ],
    ids=["one class", "many classes", "multilabel", "images", "many features"],
)
def test_there_is_none_where_it_has_no_meaning_or_takes_long(train, task):
    assert linear.fit(train, task) is None


def test_only_so_many_rows_are_fitted(monkeypatch):
    monkeypatch.setattr(linear, "ROWS", 50)
    taken = []
    held = source(X, X[:, :1])
    linear.fit(held._replace(take=lambda i: taken.append(len(i)) or held.take(i)), "regress")
    assert taken == [50]
