"""Code of the user's own: checked against its signature with the file and line of each key, and called."""

import jax.numpy as jnp
import pytest

from jaxprop.code.load import Code, check_code, is_of_outputs, load_code
from jaxprop.config.load import load
from jaxprop.config.schema.task import CustomMetric
from jaxprop.errors import ConfigError, UsageError
from jaxprop.types import Metric

MINE = """\
import optax
from jaxprop.types import Metric

def net(width: int, *, classes, rngs=None):
    if width > 1000:
        raise MemoryError("too wide")
    return width, classes

def focal(outputs, batch, gamma: float = 2.0):
    return gamma

class Focal:
    def __init__(self, classes):
        self.classes = classes

    def __call__(self, outputs, batch):
        return self.classes

def number():
    return 3

hits = Metric(lambda outputs, batch: (outputs, batch), lambda total: 1.0)

def data(path, batch_size, *, task):
    return path, batch_size, task

def make(learning_rate, momentum: float = 0.0):
    return optax.sgd(learning_rate, momentum)

def rateless():
    return optax.sgd(0.1)
"""
YAML = """\
task: {name: classify}
data: {name: digits}
model:
  class: mine.py:net
  width: 64
optimizer: {name: sgd, lr: 0.1}
run: {steps: 1}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Loads the YAML, changed and with overrides, from another working directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "mine.py").write_text(MINE)

    def made(*overrides, old="", new="", code=()):
        (tmp_path / "mine.yaml").write_text(YAML.replace(old, new) if old else YAML)
        return load(tmp_path / "mine.yaml", overrides, code).config

    return made


def test_it_is_found_beside_the_config_and_called_with_what_it_takes(config):
    code = load_code(config().model, ("model",))
    assert code.takes("rngs")
    assert not code.takes("key")
    assert code(classes=10, key=3, rngs=1) == (64, 10)


def test_a_key_of_the_section_goes_before_what_jaxprop_gives(config):
    code = load_code(config(old="width: 64", new="width: 64\n  classes: 3").model, ("model",))
    assert code(classes=10) == (64, 3)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("width", "widht", "5: model.widht: unknown key; did you mean 'width'?"),
        ("  width: 64\n", "", "3: model.width: required key is missing"),
        ("64", "6.5", "5: model.width: expected a whole number, got 6.5"),
        ("mine.py:net", "mine.py:nte", "4: model.class: mine.py has no 'nte'; did you mean 'net'?"),
        ("mine.py:net", "mien.py:net", "4: model.class: there is no file"),
        ("mine.py:net", "nowhere.at_all:net", "4: model.class: there is no module 'nowhere.at_all'"),
        ("mine.py:net", "mine.py:hits", "5: model.width: unknown key (known: outputs, batch)"),
    ],
)
def test_mistakes_name_the_file_and_the_line(config, tmp_path, old, new, line):
    with pytest.raises(ConfigError) as caught:
        check_code(config(old=old, new=new))
    assert caught.value.problems[0].startswith(f"{tmp_path / 'mine.yaml'}:{line}")
    assert caught.value.exit_code == 2


def test_mistakes_of_an_override_name_it(config):
    with pytest.raises(ConfigError, match=r"override 'model.widht=3': model.widht: unknown key"):
        check_code(config("model.widht=3"))


def test_all_mistakes_are_told_together(config):
    changed = config("model.widht=1", "optimizer={class: optax:adamw, lr: 0.1, b11: 0.5}", "task.loss={class: no.py:x}")
    with pytest.raises(ConfigError) as caught:
        check_code(changed)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert all(part in told for part in ("model.widht", "optimizer.b11: unknown key; did you mean 'b1'?", "no.py"))


def test_errors_of_the_code_name_its_line(config):
    code = load_code(config("model.width=2000").model, ("model",))
    with pytest.raises(
        ConfigError, match=r"model.class: mine.py:net raised MemoryError on line 6 of mine.py: too wide"
    ):
        code(classes=10)


def test_a_size_that_the_data_do_not_have(config):
    with pytest.raises(ConfigError, match=r"model.classes: mine.py:net takes classes, but the data have vocabulary"):
        load_code(config().model, ("model",))(vocabulary=256)


def test_code_that_a_run_names_is_not_run(config):
    config()
    stored = load("../mine.yaml", stored=True).config
    with pytest.raises(UsageError, match=r"mine.yaml:4: model.class: mine.py:net .* repeat it: --code mine.py$"):
        check_code(stored)
    assert load_code(load("../mine.yaml", code=["../mine.py"], stored=True).config.model, ("model",))(classes=1)


# -- losses and metrics ---------------------------------------------------------------------------


def loss(config, target, **arguments):
    changed = config(f"task.loss={{class: ../mine.py:{target}{''.join(f', {k}: {v}' for k, v in arguments.items())}}}")
    return load_code(changed.task.loss, ("task", "loss"))


def test_functions_of_outputs_are_told_by_their_second_parameter():
    assert is_of_outputs(lambda outputs, batch: 0)
    assert is_of_outputs(lambda logits, batch, gamma: 0)
    assert not is_of_outputs(lambda gamma, delta: 0)
    assert not is_of_outputs(Metric)


def test_a_function_takes_the_keys_after_outputs_and_batch(config):
    assert loss(config, "focal", gamma=3).of_outputs()(None, None) == 3.0
    with pytest.raises(ConfigError, match=r"task.loss.gama: unknown key; did you mean 'gamma'\?"):
        loss(config, "focal", gama=3)
    with pytest.raises(ConfigError, match=r"task.loss.outputs: unknown key"):
        loss(config, "focal", outputs=3)


def test_a_class_makes_the_function_and_receives_sizes(config):
    assert loss(config, "Focal").of_outputs(classes=7)(None, None) == 7


def test_what_makes_something_else_is_refused(config):
    with pytest.raises(ConfigError, match=r"expected mine.py:number to take \(outputs, batch, ...\), or to return"):
        loss(config, "number").of_outputs()


def test_a_metric_is_taken_as_it_is(config):
    changed = config("task.metrics={hits: {class: ../mine.py:hits}}")
    assert isinstance(changed.task.metrics["hits"], CustomMetric)
    made = load_code(changed.task.metrics["hits"], ("task", "metrics", "hits")).of_outputs(classes=1)
    assert isinstance(made, Metric)
    with pytest.raises(ConfigError, match=r"task.metrics.hits.k: unknown key; it takes no arguments"):
        check_code(config("task.metrics={hits: {class: ../mine.py:hits, k: 2}}"))


# -- data and optimizers --------------------------------------------------------------------------


def test_keys_that_all_data_have_are_given_and_not_asked_for(config):
    section = config("data={class: ../mine.py:data, path: x, batch_size: 8}").data
    code = load_code(section, ("data",))
    assert code(task="classify", batch_size=section.batch_size) == ("x", 8, "classify")
    with pytest.raises(ConfigError, match=r"data.batchsize: unknown key; did you mean 'batch_size'\?"):
        check_code(config("data={class: ../mine.py:data, path: x, batchsize: 8}"))


OPTIMIZERS = [
    ("{class: mine.py:make, learning_rate: 1}", r"optimizer.learning_rate: unknown key; did you mean 'lr'\?"),
    ("{class: mine.py:make}", "optimizer.lr: required key is missing"),
    ("{class: mine.py:rateless, lr: 1}", "optimizer.lr: mine.py:rateless takes no learning_rate"),
    ("{class: mine.py:make, lr: 1, momentum: a}", "optimizer.momentum: expected a number, got 'a'"),
]


@pytest.mark.parametrize(("section", "sentence"), OPTIMIZERS)
def test_the_learning_rate_is_the_key_lr(config, section, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_code(config(old="{name: sgd, lr: 0.1}", new=section))


def test_an_optimizer_is_made(config):
    code = load_code(config("optimizer={class: optax:sgd, lr: 1, momentum: 0.5}").optimizer, ("optimizer",))
    assert isinstance(code, Code)
    updates, _ = (tx := code(learning_rate=1.0)).update(jnp.ones(2), tx.init(jnp.ones(2)))
    assert updates.tolist() == [-1.0, -1.0]
