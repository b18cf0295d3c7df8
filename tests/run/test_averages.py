"""Runs that keep several averages: the best is what evaluations, the best checkpoint and all that opens it use."""

import json

import numpy as np
import pytest

import jaxprop
from jaxprop.config.load import load
from jaxprop.errors import ConfigError, UsageError
from jaxprop.run.train import train
from jaxprop.tools.eval import evaluate_run
from jaxprop.tools.export import export_run
from tests.benches import Bench, bits

OVER = {"run": {"ema_decay": [0.3, 0.97], "swa": {"start": 0.5, "every_steps": 2}}}
NAMES = ("ema_0.3", "ema_0.97", "swa")


@pytest.fixture(scope="module")
def bench():
    return Bench(OVER)


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    return bench.train(tmp_path_factory.mktemp("whole"))


def test_every_evaluation_tells_each_average_and_uses_the_best(whole):
    evaluations = [record for record in whole.metrics if record["split"] == "eval"]
    assert len(evaluations) == 4
    for record in evaluations:
        each = {name: record[f"loss/{name}"] for name in NAMES}
        assert record["loss"] == min(each.values())
        assert len(set(each.values())) > 1


@pytest.mark.parametrize("stop_at", [5, 8, 11])
def test_a_run_stopped_anywhere_has_the_same_averages(bench, whole, tmp_path, stop_at):
    bench.train(tmp_path, stop_at=stop_at)
    resumed = bench.train(tmp_path)
    assert bits(resumed.loop.state) == bits(whole.loop.state)
    assert resumed.metrics == whole.metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "averaged"
    config = load("digits_mlp", ["run.epochs=3", "run.ema_decay=[0.5,0.99]", "run.swa.start=0.3"]).config
    train(config, folder, quiet=True)
    return folder


def figures(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "eval"][-1]


def test_what_opens_the_run_uses_the_average_that_was_best(run):
    last = figures(run)
    names = ("ema_0.5", "ema_0.99", "swa")
    best = min(names, key=lambda name: last[f"loss/{name}"])
    used, wanted = jaxprop.load(run).params, jaxprop.load(run, average=best).params
    assert bits(used) == bits(wanted)
    assert evaluate_run(run)["metrics"]["loss"] == pytest.approx(last["loss"], rel=1e-6)
    for name in names:
        found = evaluate_run(run, [f"run.average={name}"])["metrics"]["loss"]
        assert found == pytest.approx(last[f"loss/{name}"], rel=1e-6)
    assert len({last[f"loss/{name}"] for name in names}) == 3


def test_one_average_can_be_opened(run):
    ours = {name: jaxprop.load(run, average=name).params["head"]["kernel"] for name in ("ema_0.5", "swa")}
    assert not np.array_equal(ours["ema_0.5"], ours["swa"])


def test_the_model_card_says_whose_weights_and_figures_it_has(run):
    for average in ("ema_0.5", "swa"):
        export_run(jaxprop.load(run, average=average), "safetensors", run / average)
        text = (run / average / "README.md").read_text()
        assert f"Its weights are the average `{average}`: its own figure is `loss/{average}`" in text
    export_run(jaxprop.load(run), "safetensors", run / "best")
    assert "of the averages ema_0.5, ema_0.99, swa which was best" in (run / "best" / "README.md").read_text()
    with pytest.raises(UsageError, match=r"the trained parameters .* or the average swa: give one of them"):
        jaxprop.load(run, average="swa", ema=False)


def test_an_evaluation_names_the_average(run):
    assert evaluate_run(run, ["run.average=swa"])["average"] == "swa"
    last = figures(run)
    assert evaluate_run(run)["average"] == min(("ema_0.5", "ema_0.99", "swa"), key=lambda name: last[f"loss/{name}"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("run.average=ema_0.9", "no average is kept; add run.ema_decay or run.swa"),
        ("run.ema_decay=[0.9,0.9]", "expected different decays"),
        ("run.ema_decay=[]", "run.ema_decay"),
    ],
)
def test_averages_that_do_not_go_together_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        load("digits_mlp", [change])
