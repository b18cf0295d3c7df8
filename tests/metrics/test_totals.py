"""Metrics over a whole split: sums and rows are exact whatever the batches, the padding and the devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import roc_auc_score

import jaxprop
from jaxprop import data, metrics
from jaxprop.errors import ShapeError, UsageError
from jaxprop.losses.sigmoid import sigmoid_cross_entropy
from jaxprop.metrics.totals import add_up, as_metric, finished, mean, measure
from jaxprop.train.objective import loss_from
from jaxprop.types import Metric, Rows, Source
from tests.steps import run

RNG = np.random.default_rng(0)
SIZE = 53  # a prime, so that every batch size leaves padding
INPUTS = RNG.normal(size=(SIZE, 4)).astype(np.float32)
LABELS = (INPUTS[:, 0] + RNG.normal(size=SIZE) > 0).astype(np.float32)
PARAMS = {"w": np.array([[1.0], [0.5], [0.0], [0.0]], np.float32)}
SPLIT = Source(SIZE, lambda i: {"inputs": INPUTS[i], "labels": LABELS[i]}, {}, "")

MODEL = jaxprop.from_functions(
    lambda key, batch: (PARAMS, {}),
    lambda params, extras, batch, *, key, train: (batch["inputs"] @ params["w"], extras),
)


def auc_rows(outputs, batch):
    return Rows({"score": outputs[:, 0], "label": batch["labels"]})


def confusion(outputs, batch):
    said, real = (outputs[:, 0] > 0), batch["labels"] > 0.5
    cells = 2 * said.astype(jnp.int32) + real.astype(jnp.int32)
    return jnp.sum(jax.nn.one_hot(cells, 4) * batch["weight"][:, None], 0)


def precision_and_recall(counts):
    _, missed, wrong, found = counts
    return {"precision": found / (found + wrong), "recall": found / (found + missed)}


METRICS = {
    "auc": Metric(auc_rows, lambda rows: roc_auc_score(rows["label"], rows["score"])),
    "table": Metric(confusion, precision_and_recall),
    "error": lambda outputs, batch: (
        jnp.sum(batch["weight"] * jnp.abs(outputs[:, 0] - batch["labels"])),
        jnp.sum(batch["weight"]),
    ),
    "accuracy": metrics.multilabel_accuracy,
}
OBJECTIVE = loss_from(MODEL, sigmoid_cross_entropy, METRICS)


def expected():
    scores = INPUTS @ PARAMS["w"][:, 0]
    said, real = scores > 0, LABELS > 0.5
    return {
        "loss": np.mean(np.logaddexp(0, scores) - LABELS * scores),
        "auc": roc_auc_score(LABELS, scores),
        "precision": np.sum(said & real) / np.sum(said),
        "recall": np.sum(said & real) / np.sum(real),
        "error": np.mean(np.abs(scores - LABELS)),
        "accuracy": np.mean(said == real),
    }


@pytest.mark.parametrize("devices", [None, 8])
@pytest.mark.parametrize("size", [8, 16, 64])
def test_figures_of_a_split_are_exact(size, devices):
    mesh = None if devices is None else jaxprop.make_mesh(devices)
    evaluate = jaxprop.make_eval_step(OBJECTIVE, mesh=mesh)
    figures = evaluate.finish(evaluate(PARAMS, {}, batch) for batch in data.one_pass(SPLIT, size))
    assert list(figures) == list(expected())
    for name, value in expected().items():
        assert figures[name] == pytest.approx(value, rel=1e-6), name
    assert figures["auc"] == roc_auc_score(LABELS, INPUTS @ PARAMS["w"][:, 0])


def test_rows_come_in_the_order_of_the_split_and_without_padding():
    seen = []
    kept = Metric(lambda outputs, batch: Rows(batch["inputs"]), lambda rows: seen.append(rows) or len(rows))
    evaluate = jaxprop.make_eval_step(loss_from(MODEL, sigmoid_cross_entropy, {"n": kept}), mesh=jaxprop.make_mesh(8))
    figures = evaluate.finish(evaluate(PARAMS, {}, batch) for batch in data.one_pass(SPLIT, 16))
    assert figures["n"] == SIZE
    np.testing.assert_array_equal(seen[0], INPUTS)


def test_a_weight_of_its_own_decides_which_rows_are_kept():
    kept = Metric(lambda outputs, batch: Rows(outputs, batch["labels"]), lambda rows: len(rows))
    evaluate = jaxprop.make_eval_step(loss_from(MODEL, sigmoid_cross_entropy, {"n": kept}))
    assert evaluate.finish(evaluate(PARAMS, {}, b) for b in data.one_pass(SPLIT, SIZE))["n"] == LABELS.sum()


def test_rows_that_a_mask_leaves_nothing_of_are_not_kept():
    kept = Metric(lambda outputs, batch: Rows(outputs), lambda rows: len(rows))
    batch = {"inputs": INPUTS[:4], "labels": LABELS[:4], "mask": np.array([1, 0, 1, 1], np.float32)}
    evaluate = jaxprop.make_eval_step(loss_from(MODEL, sigmoid_cross_entropy, {"n": kept}))
    assert evaluate.finish([evaluate(PARAMS, {}, batch)])["n"] == 3


def test_a_record_of_training_holds_the_metrics_that_are_sums():
    batch = {"inputs": INPUTS, "labels": LABELS, "weight": np.ones(SIZE, np.float32)}
    _, _, (m,) = run(OBJECTIVE, optax.sgd(0.1), [batch], params=PARAMS)
    assert set(m.metrics) == {"error", "accuracy"}
    np.testing.assert_allclose(m.metrics["error"][0] / SIZE, expected()["error"], rtol=1e-6)


def test_many_batches_are_added_in_64_bits():
    totals = {}
    for _ in range(3):
        add_up(totals, {"loss": (np.float32(2**24), np.int32(1)), "n": np.int32(2**31 - 1)})
        add_up(totals, {"loss": (np.float32(1), np.int32(0)), "n": np.int32(0)})
    assert finished(totals, {"n": Metric(len, int)}) == {"loss": (3 * 2**24 + 3) / 3, "n": 3 * (2**31 - 1)}


def test_nothing_counted_is_nan():
    assert np.isnan(mean((0.0, 0.0)))


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (lambda o: jnp.mean(o), r"expected the metric m to return \(sum, count\), two scalars"),
        (lambda o: (o[:, 0], o[:, 0]), r"got shapes \(\(53,\), \(53,\)\); for anything else give Metric"),
        (lambda o: None, r"expected the metric m to return \(sum, count\)"),
    ],
)
def test_a_function_that_returns_no_sum_and_count(returned, error):
    with pytest.raises(ShapeError, match=error):
        as_metric("m", lambda outputs, batch: returned(outputs)).update(jnp.ones((SIZE, 1)), {})


def test_a_metric_that_is_none():
    with pytest.raises(UsageError, match=r"expected the metric m to be a Metric or a function .*, got float"):
        loss_from(MODEL, sigmoid_cross_entropy, {"m": 0.5})


@pytest.mark.parametrize("values", [{"a": jnp.ones(3), "b": jnp.ones(4)}, jnp.float32(1)])
def test_rows_without_a_common_first_axis(values):
    with pytest.raises(ShapeError, match="expected the rows of the metric m to be arrays"):
        measure({"m": Metric(lambda outputs, batch: Rows(values), len)}, None, {})


def test_rows_of_several_lengths():
    totals = {}
    for length in (3, 4):
        add_up(totals, {"m": Rows(np.zeros((2, length)))})
    with pytest.raises(ShapeError, match="one shape in every batch; pad them to the longest"):
        finished(totals, {"m": Metric(len, len)})


@pytest.mark.parametrize(
    ("finish", "error"),
    [
        (lambda total: {"loss": 1.0}, "two metrics report 'loss'; rename one"),
        (lambda total: "high", "to return a number or {name: number}, got str"),
        (lambda total: np.ones(3), r"got ndarray of shape \(3,\)"),
    ],
)
def test_a_finish_that_reports_no_number_of_its_own(finish, error):
    totals = {}
    add_up(totals, {"loss": (1.0, 1.0), "m": (1.0, 1.0)})
    with pytest.raises(UsageError, match=error):
        finished(totals, {"m": Metric(len, finish)})
