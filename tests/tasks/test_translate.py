"""Translation binds, learns, writes the same alone and in a batch, and is measured by what it writes."""

import importlib
import json

import jax
import numpy as np
import pytest

from jaxprop import data, tasks
from jaxprop.config.build import build
from jaxprop.config.custom import admit
from jaxprop.config.tree import Tree
from jaxprop.core.precision import policy
from jaxprop.errors import DataError, UsageError
from jaxprop.run.compose import compose
from jaxprop.run.evaluate import evaluate
from jaxprop.tasks.task import predictions

LETTERS = "abcd"
PAIRS = [(x + y + z, f"{z} {y}{x}".upper()) for x in LETTERS for y in LETTERS for z in ("", *LETTERS)]
MODELS = {
    "gru": {"name": "seq2seq_rnn", "width": 32},
    "transformer": {"name": "seq2seq_transformer", "layers": 1, "width": 32, "heads": 2},
}


@pytest.fixture
def config(tmp_path):
    """Returns a function: changed sections -> a configuration of pairs whose target is the source, turned around."""

    def make(kind="gru", **sections):
        for name, rows in (("train", PAIRS), ("test", PAIRS[::7])):
            lines = [json.dumps({"source": s, "target": t}) + "\n" for s, t in rows]
            (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
        base = {
            "task": {"name": "translate"},
            "data": {"name": "pairs", "batch_size": 16, "eval_batch_size": 5, **paths},
            "model": MODELS[kind],
            "optimizer": {"name": "adam", "lr": 0.01},
            "parallel": {"devices": 1},
            "run": {"steps": 3},
        }
        return admit(build(base | sections), Tree(base | sections, {}))

    return make


def test_learns(learn, config):
    learned = learn(config(run={"steps": 200}))
    assert set(learned.after) == {"loss", "accuracy", "bleu", "chrf", "exact_match"}
    assert learned.before["exact_match"] == 0
    assert learned.after["exact_match"] > 0.8
    assert learned.after["chrf"] > 80 > learned.before["chrf"]


def large(params, seed):
    """Parameters so large that what is written depends on what is read."""
    rng = np.random.default_rng(seed)

    def drawn(leaf):
        inputs = 1 if len(leaf) == 256 else len(leaf)  # of a table of embeddings, and of a kernel
        return (2 * rng.normal(size=leaf.shape) / inputs**0.5).astype(np.float32) if leaf.ndim == 2 else leaf

    return jax.tree.map(drawn, params)


@pytest.fixture(params=MODELS)
def experiment(request, config):
    experiment = compose(config(request.param))
    state = experiment.init(0)
    return experiment, large(state.params, 5), state.extras


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_is_translated_alone_as_in_a_batch(experiment, beams):
    experiment, params, extras = experiment
    answer = jax.jit(predictions(experiment.task, policy("float32"), beams=beams))
    batch = experiment.sources["test"].take(np.arange(7))
    together = answer(params, extras, batch)
    assert len(np.unique(together["tokens"], axis=0)) > 1
    for i in range(7):
        length = int(batch["input_mask"][i].sum())
        alone = {"inputs": batch["inputs"][i : i + 1, :length]}  # without targets, and without padding
        found = answer(params, extras, alone)
        np.testing.assert_array_equal(found["tokens"][0], together["tokens"][i])
        np.testing.assert_allclose(found["probability"][0], together["probability"][i], rtol=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("beams", [1, 3])
def test_half_precision_writes_too(experiment, beams, precision):
    experiment, params, extras = experiment
    batch = experiment.sources["test"].take(np.arange(4))
    found = jax.jit(predictions(experiment.task, policy(precision), beams=beams, detail=True))(params, extras, batch)
    assert found["tokens"].dtype == np.int32
    assert np.isfinite(found["probability"]).all()
    assert found["attention"].shape == (4, found["tokens"].shape[1], batch["inputs"].shape[1])
    sums = experiment.task.objective.sums(params, extras, batch, policy(precision))
    assert np.isfinite(sums["loss"][0])


def test_beams_find_what_is_at_least_as_likely_by_score(experiment):
    experiment, params, extras = experiment
    batch = experiment.sources["test"].take(np.arange(7))
    one, many = (
        jax.jit(predictions(experiment.task, policy("float32"), beams=beams))(params, extras, batch)
        for beams in (1, 16)
    )

    def score(found):
        ends = np.asarray(found["tokens"]) == 0
        lengths = np.where(ends.any(1), ends.argmax(1) + 1, ends.shape[1])
        return np.log(found["probability"]) / ((5 + lengths) / 6) ** 0.6

    assert np.all(score(many) >= score(one) - 1e-3)


def test_figures_are_of_what_is_written_and_leave_padding_out(experiment, monkeypatch):
    experiment, params, extras = experiment
    compared = []

    def seen(translations, references):
        compared.append((translations, references))
        return {"bleu": 1.0, "chrf": 2.0, "exact_match": 3.0}

    module = importlib.import_module("jaxprop.tasks.translate")  # the package's attribute is the function
    monkeypatch.setattr(module, "translation_figures", seen)
    source = experiment.sources["test"]
    found = experiment.evaluate.finish(experiment.evaluate(params, extras, batch) for batch in data.one_pass(source, 5))
    assert {name: found[name] for name in ("bleu", "chrf", "exact_match")} == {
        "bleu": 1.0, "chrf": 2.0, "exact_match": 3.0,
    }  # fmt: skip
    ((translations, references),) = compared
    assert references == [target for _, target in PAIRS[::7]]
    answer = jax.jit(predictions(experiment.task, policy("float32")))
    told = answer(params, extras, source.take(np.arange(source.length)))
    assert translations == [experiment.task.describe(told, i, {})["translation"] for i in range(source.length)]


def test_figures_are_exact_over_batches_and_devices(config):
    figures = []
    for devices, size in ((1, 12), (1, 5), (8, 8)):
        made = config()
        sections = {"data": made.data.model_copy(update={"eval_batch_size": size})}
        sections["parallel"] = made.parallel.model_copy(update={"devices": devices})
        experiment = compose(made.model_copy(update=sections))
        state = experiment.init(0)
        figures.append(evaluate(experiment, state._replace(params=large(state.params, 5))))
    assert 0 < figures[0]["chrf"] < 100
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], rel=1e-5)


def test_panels_show_the_worst_first_and_what_is_attended_to(experiment):
    experiment, params, extras = experiment
    batch = experiment.sources["test"].take(np.arange(6))
    told = jax.device_get(jax.jit(predictions(experiment.task, policy("float32"), detail=True))(params, extras, batch))
    table, attention = [panel(told, batch) for panel in experiment.task.panels]
    sources = [source for source, _ in PAIRS[::7][:6]]
    assert sorted(row[0] for row in table.data["rows"]) == sorted(sources)
    scores = [row[3] for row in table.data["rows"]]
    assert scores == sorted(scores)
    assert "".join(attention.data["column_names"]) == table.data["rows"][0][0]
    np.testing.assert_allclose(np.sum(attention.data["cells"], 1), 1, atol=1e-3)
    assert len(attention.data["cells"]) == len(attention.data["row_names"])


def test_a_task_that_writes_no_text_has_no_beams(bound):
    arrays = np.zeros((4, 3), np.float32), np.arange(4) % 2
    _, _, task = bound("classify", arrays)
    with pytest.raises(UsageError, match="beams: no option of this task"):
        predictions(task, policy("float32"), beams=2)


OWN = '''
import jax
from flax import nnx


class Net(nnx.Module):
    """Each written token from the source's mean and the token before."""

    def __init__(self, vocabulary, rngs):
        self.embed = nnx.Embed(vocabulary, 8, rngs=rngs)
        self.head = nnx.Linear(8, vocabulary, rngs=rngs)

    def __call__(self, batch):
        source = self.embed(batch["inputs"]).mean(1, keepdims=True)
        return self.head(jax.numpy.tanh(self.embed(batch["targets"]) + source))
'''


def test_a_model_of_the_users_own_writes_too(config, tmp_path, learn):
    (tmp_path / "net.py").write_text(OWN)
    learned = learn(config(model={"class": f"{tmp_path}/net.py:Net"}))
    assert set(learned.after) == {"loss", "accuracy", "bleu", "chrf", "exact_match"}
    assert learned.after["loss"] < learned.before["loss"]


def test_data_that_are_no_pairs(config):
    made = config()
    train = data.open_sources(made.data, "translate")["train"]
    without = {name: value for name, value in train.info.items() if name not in ("begin", "end")}
    with pytest.raises(DataError, match=r"these data lack begin, end; use data.name: pairs"):
        tasks.make_task(made, {"train": train._replace(info=without)})
