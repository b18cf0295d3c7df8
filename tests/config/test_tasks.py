"""Which metric runs are ranked by, and in which direction."""

import pytest

from jaxprop.config.tasks import TASK_TABLE, better, main_metric


@pytest.mark.parametrize(
    ("task", "measured", "best", "main"),
    [
        ("classify", ["loss", "accuracy"], None, "accuracy"),
        ("regress", ["loss", "mean_absolute_error"], None, "mean_absolute_error"),
        ("language", ["loss", "accuracy", "perplexity"], None, "loss"),
        ("language", ["loss", "accuracy", "perplexity"], "accuracy", "accuracy"),
        ("translate", ["loss", "bleu", "exact_match"], None, "bleu"),
        ("classify", ["loss"], None, "loss"),
        ("classify", [], None, "loss"),
        ("classify", ["loss", "accuracy"], "loss", "loss"),
        (None, ["loss", "f1"], None, "f1"),
        ("unheard of", ["loss"], None, "loss"),
    ],
)
def test_the_metric_that_runs_are_ranked_by(task, measured, best, main):
    assert main_metric(task, measured, best) == main


@pytest.mark.parametrize("task", TASK_TABLE)
def test_the_table_says_which_way_its_own_figures_go(task):
    assert {name: better(name, task) for name in TASK_TABLE[task].figures} == {
        name: figure.better for name, figure in TASK_TABLE[task].figures.items()
    }


def test_the_name_decides_for_metrics_of_ones_own():
    assert [better(name, "classify") for name in ("my_recall", "top_5", "word_error_rate")] == ["max", "max", "min"]
