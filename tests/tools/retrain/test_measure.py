"""Examples measured by themselves: equal to a whole evaluation, and any figure of any choice of them."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.core.precision import policy
from jaxprop.metrics.totals import mean
from jaxprop.tools.retrain.bootstrap import Quotient, Weighted
from jaxprop.tools.retrain.measure import each_example, figure_of, figures_of, measure
from jaxprop.types import Metric, Objective, Rows, Source

VALUES = np.array([1.0, 4.0, 2.0, 8.0, 3.0], np.float32)
WEIGHT = np.array([1.0, 2.0, 0.0, 1.0, 1.0], np.float32)  # the third counts for nothing
METRICS = {
    "plain": Metric(lambda *_: None, mean),
    "squares": Metric(lambda *_: None, lambda total: {"rms": float(np.sqrt(total["s"] / total["n"]))}),
    "rows": Metric(lambda *_: None, lambda rows: {"median": float(np.median(rows["x"]))}),
    "quick": Metric(
        lambda *_: None,
        lambda rows: {"top": float(rows["x"].max()), "low": float(rows["x"].min())},
        lambda rows: lambda weights: {"top": float(rows["x"][weights > 0].max())},
    ),
}


def sums(params, extras, batch, _policy):
    x, w = params["scale"] * batch["x"], batch["weight"]
    total = jnp.sum(w * x), jnp.sum(w)
    rows = Rows({"x": x}, w)
    return {
        "loss": total, "plain": (jnp.sum(w * x * 2), jnp.sum(w)), "rows": rows, "quick": rows,
        "squares": {"s": jnp.sum(w * x**2), "n": jnp.sum(w)},
    }  # fmt: skip


@pytest.fixture(scope="module")
def seen():
    objective = Objective(lambda *_: None, sums, METRICS)
    task = SimpleNamespace(objective=objective, derived=lambda figures: {"doubled": 2 * figures["loss"]})
    source = Source(5, lambda i: {"x": VALUES[i], "weight": WEIGHT[i]}, {}, "")
    found = measure(each_example(objective, policy("float32")), {"scale": jnp.float32(1)}, {}, source, batch_size=2)
    return found, task


def test_examples_of_no_weight_and_padding_are_left_out(seen):
    found, _ = seen
    assert found.indices.tolist() == [0, 1, 3, 4]
    assert found.losses.tolist() == [1, 4, 8, 3]
    assert found.gathered == {"rows", "quick"}


def test_figures_of_all_examples_are_those_of_the_split(seen):
    rms = np.sqrt((1 + 2 * 16 + 64 + 9) / 5)
    wanted = {"loss": 4.0, "plain": 8.0, "rms": rms, "median": 3.5, "top": 8.0, "low": 1.0, "doubled": 8.0}
    assert figures_of(*seen) == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["loss", "plain", "rms", "median", "top", "low", "doubled"])
def test_any_figure_of_any_choice(seen, name):
    """With weights 2, 0, 1, 0 the choice is 1, 1, 8: whatever way a figure is computed of it."""
    figure, weights = figure_of(*seen, name), np.array([2, 0, 1, 0])
    if name in ("loss", "plain"):
        assert isinstance(figure, Quotient)
        found = (weights @ figure.total) / (weights @ figure.by)
    else:
        assert isinstance(figure, Weighted)
        found = figure.of(weights)
    wanted = {"loss": 10 / 3, "plain": 20 / 3, "rms": np.sqrt(22), "median": 1.0, "top": 8.0, "low": 1.0}
    assert found == pytest.approx(wanted.get(name, 20 / 3))
