"""Runs that learn from another run: what is refused, what is stored, and that the student does without it later."""

import json
import shutil

import jax
import numpy as np
import pytest

import jaxprop
from jaxprop.config.build import build
from jaxprop.config.load import load
from jaxprop.errors import CheckpointError, ConfigError, UsageError
from jaxprop.run.compose import compose
from jaxprop.run.teacher import open_teacher
from jaxprop.run.train import train
from jaxprop.tools.eval import evaluate_run
from tests.run.trained import CLASSES, sections, write_arrays

BIG = {"hidden": [12], "batch_norm": True}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with data and a trained run `runs/big`."""
    folder = tmp_path_factory.mktemp("home")
    write_arrays(folder)
    assert train(build(sections(folder, model=BIG)), folder / "runs" / "big", quiet=True).exit_code == 0
    return folder


def student(home, **changes):
    teacher = {"run": str(home / "runs" / "big"), "temperature": 3.0, "weight": 0.6}
    task = {"teacher": teacher | changes.pop("teacher", {})} if "task" not in changes else changes.pop("task")
    data = changes.pop("data", {})
    made = sections(home, task=task, model={"hidden": [4], "batch_norm": False}, **changes)
    return made | {"data": made["data"] | data}


def state_of(folder):
    opened = jaxprop.load(folder, which="newest").opened
    return opened.state, opened.config


def same(one, other):
    a, b = jax.tree.leaves(one._replace(key=())), jax.tree.leaves(other._replace(key=()))
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_run_learns_from_another_and_needs_it_no_more(home, tmp_path):
    shutil.copytree(home / "runs" / "big", tmp_path / "big")
    folder = tmp_path / "student"
    outcome = train(build(student(home, teacher={"run": str(tmp_path / "big")})), folder, quiet=True)
    assert outcome.exit_code == 0
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [one for one in records if one["split"] == "train"]
    assert all(abs(r["loss"] - 0.4 * r["task_loss"] - 0.6 * r["divergence"]) < 1e-4 for r in steps)
    assert all("divergence" not in one for one in records if one["split"] == "eval")
    shutil.rmtree(tmp_path / "big")
    run = jaxprop.load(folder)
    assert run.predict(np.zeros((2, 5), np.float32))["class"].shape == (2,)
    assert len(run.config.task.teacher.digest) == 64
    assert np.isfinite(evaluate_run(folder)["metrics"]["loss"])


def test_a_run_goes_on_to_the_bit_also_with_a_teacher_that_was_moved(home, tmp_path):
    whole = build(student(home, run={"ema_decay": None}))
    train(whole, tmp_path / "whole", quiet=True)
    train(build(student(home, run={"ema_decay": None, "steps": 8})), tmp_path / "parts", quiet=True)
    shutil.copytree(home / "runs" / "big", tmp_path / "moved")
    moved = build(student(home, run={"ema_decay": None}, teacher={"run": str(tmp_path / "moved")}))
    assert train(moved, tmp_path / "parts", quiet=True).summary["step"] == 12
    assert same(state_of(tmp_path / "whole")[0], state_of(tmp_path / "parts")[0])
    plain = build(sections(home, model={"hidden": [4], "batch_norm": False}, run={"ema_decay": None}))
    train(plain, tmp_path / "plain", quiet=True)
    assert not same(state_of(tmp_path / "whole")[0], state_of(tmp_path / "plain")[0])


def test_a_run_does_not_go_on_with_another_teacher(home, tmp_path):
    folder = tmp_path / "student"
    train(build(student(home, run={"steps": 4})), folder, quiet=True)
    other = train(build(sections(home, model=BIG, run={"seed": 5})), tmp_path / "other", quiet=True)
    assert other.exit_code == 0
    with pytest.raises(UsageError, match=r"other is not the teacher that this run began with: .* --fresh to start"):
        train(build(student(home, teacher={"run": str(tmp_path / "other")})), folder, quiet=True)
    stored = load(folder / "config.yaml", [f"task.teacher.run={tmp_path / 'other'}"]).config
    with pytest.raises(UsageError, match="is not the teacher that this run began with"):
        train(stored, tmp_path / "again", quiet=True)
    with pytest.raises(UsageError, match=r"task.teacher.weight: 0.6 -> 0.5"):
        train(build(student(home, teacher={"weight": 0.5})), folder, quiet=True)
    with pytest.raises(UsageError, match=r"task.teacher: .* -> \(not set\)"):
        train(build(student(home, task={})), folder, quiet=True)
    assert jaxprop.load(folder).step == 4


def test_a_name_alone_is_a_run(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    config = build(student(home, task={"teacher": "big"}, run={"steps": 2, "eval_every": 2}))
    assert (config.task.teacher.temperature, config.task.teacher.weight) == (2.0, 0.5)
    train(config, tmp_path / "student", quiet=True)
    assert state_of(tmp_path / "student")[1].task.teacher.run == str(home / "runs" / "big")


def refused(home, error, told, folder=None, **changes):
    with pytest.raises(error, match=told) as raised:
        train(build(student(home, **changes)), folder or home / "runs" / "student", quiet=True)
    assert len(str(raised.value).splitlines()) == 1
    assert not (home / "runs" / "student" / "checkpoints").exists()


def test_what_is_no_teacher(home, tmp_path):
    refused(
        home, UsageError, "task.teacher: .*nowhere: there is no such run", teacher={"run": str(tmp_path / "nowhere")}
    )
    refused(home, UsageError, "task.teacher: .* is not a run's folder", teacher={"run": str(tmp_path)})
    itself = home / "runs" / "big"
    refused(home, UsageError, "big is the run itself; name another run as its teacher", folder=itself)
    unsaved = build(sections(home, checkpoint={"enabled": False}))
    train(unsaved, tmp_path / "unsaved", quiet=True)
    told = "task.teacher: .*unsaved has no checkpoint yet"
    refused(home, CheckpointError, told, teacher={"run": str(tmp_path / "unsaved")})


def test_a_run_of_fit_is_no_teacher(home, tmp_path):
    import optax

    batches = [{"x": np.ones(3, np.float32)}] * 2
    jaxprop.fit(
        lambda params, batch, key: ((params["w"] - batch["x"]) ** 2).mean(), optax.sgd(0.1), batches,
        run=tmp_path / "fit", steps=2, params={"w": np.zeros(3, np.float32)}, quiet=True,
    )  # fmt: skip
    told = "is a run of jaxprop.fit, whose model is Python code; name a function with class:"
    refused(home, UsageError, told, teacher={"run": str(tmp_path / "fit")})


def arrays(folder, *, classes=CLASSES, features=5, shift=0.0, targets=False):
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name in ("train", "test"):
        inputs = (rng.normal(size=(32, features)) + shift).astype(np.float32)
        labels = rng.normal(size=32).astype(np.float32) if targets else np.arange(32) % classes
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)
    return folder


def on(data):
    return {"train": str(data / "train.npz"), "test": str(data / "test.npz")}


def test_data_that_the_teacher_does_not_know(home, tmp_path):
    more = arrays(tmp_path / "more", classes=4)
    told = "big knows 3 classes, and the data here have 4; use a teacher that was trained for the same classes"
    refused(home, ConfigError, told, data=on(more))
    wide = arrays(tmp_path / "wide", features=6)
    told = r"was trained on inputs float32\[5\], and the data here have inputs float32\[6\]"
    refused(home, ConfigError, told, data=on(wide))
    numbers = arrays(tmp_path / "numbers", targets=True)
    told = "has learned the task classify, and this run learns regress"
    changes = {"task": {"name": "regress", "teacher": {"run": str(home / "runs" / "big")}}}
    refused(home, ConfigError, told, data=on(numbers), **changes)


def test_inputs_that_are_standardized_otherwise_and_the_way_to_prepare_them_alike(home, tmp_path):
    made = sections(home, model=BIG)
    train(build(made | {"data": made["data"] | {"standardize": True}}), tmp_path / "big", quiet=True)
    teacher = {"run": str(tmp_path / "big")}
    source = {"name": "arrays", "standardize": True, **on(arrays(tmp_path / "shifted", shift=2.0))}
    told = "was trained with inputs that are standardized otherwise than here; prepare the data here as there"
    refused(home, ConfigError, told, teacher=teacher, data=source)
    config = student(home, teacher=teacher)
    config["data"] = {"name": "mixture", "prepared_by": teacher["run"], "sources": [source], "batch_size": 8}
    assert train(build(config), tmp_path / "student", quiet=True).exit_code == 0


def test_texts_of_another_tokenizer(tmp_path):
    def language(data, **task):
        return {
            "task": {"name": "language", **task}, "data": {"name": "text", "batch_size": 4, **data},
            "model": {"name": "rnn", "width": 8}, "optimizer": {"name": "adam", "lr": 0.01},
            "sinks": {"console": False}, "run": {"steps": 2}, "parallel": {"devices": 1},
        }  # fmt: skip

    for name, text in (("a", "the cat sat on the mat. " * 60), ("b", "zwei drei vier? " * 90)):
        (tmp_path / f"{name}.txt").write_text(text)
    keys = {"sequence_length": 8, "tokenizer": {"train": "bpe", "vocabulary": 260}}
    first = {"train": str(tmp_path / "a.txt"), **keys}
    train(build(language(first)), tmp_path / "big", quiet=True)
    teacher = {"run": str(tmp_path / "big")}
    assert train(build(language(first, teacher=teacher)), tmp_path / "student", quiet=True).exit_code == 0
    with pytest.raises(ConfigError, match=r"was trained with another tokenizer than here; prepare") as raised:
        train(build(language({"train": str(tmp_path / "b.txt"), **keys}, teacher=teacher)), tmp_path / "x", quiet=True)
    assert len(str(raised.value).splitlines()) == 1


CODE = """
import jax, jax.numpy as jnp, numpy as np
import jaxprop

def teacher(classes, scale=1.0):
    def apply(params, extras, batch, *, key, train):
        return batch["inputs"] @ params["w"], extras
    model = jaxprop.Model(lambda key, batch: ({"w": jnp.zeros((5, classes))}, {}), apply)
    return model, {"w": scale * np.eye(5, classes, dtype=np.float32)}

def wrong(classes):
    return classes

def narrow():
    return teacher(2)
"""


def test_a_teacher_of_ones_own(home, tmp_path):
    (tmp_path / "my_teacher.py").write_text(CODE)
    config = student(
        home, task={"teacher": {"class": f"{tmp_path / 'my_teacher.py'}:teacher", "scale": 2.0, "weight": 0.9}}
    )
    made = permitted(config)
    experiment = compose(made)
    np.testing.assert_array_equal(experiment.teacher.params["w"], 2 * np.eye(5, 3))
    assert experiment.teacher.weight == 0.9
    assert experiment.config.task.teacher.class_sha256 is not None
    config["task"]["teacher"] = {"class": f"{tmp_path / 'my_teacher.py'}:wrong"}
    with pytest.raises(ConfigError, match=r"expected my_teacher.py:wrong to return \(model, params\) or"):
        compose(permitted(config))
    config["task"]["teacher"] = {"class": f"{tmp_path / 'my_teacher.py'}:narrow"}
    with pytest.raises(
        ConfigError, match=r"my_teacher.py:narrow returns outputs of 2 numbers, and the data here have 3"
    ):
        compose(permitted(config))


def permitted(sections):
    from jaxprop.config.build import build_tree
    from jaxprop.config.custom import admit
    from jaxprop.config.tree import Tree

    tree = Tree(sections, {})
    return admit(build_tree(tree), tree)


def test_two_devices_learn_as_one(home, tmp_path):
    for count in (1, 2):
        config = student(home, parallel={"devices": count}, run={"ema_decay": None})
        train(build(config), tmp_path / str(count), quiet=True)
    one, two = (state_of(tmp_path / str(count))[0] for count in (1, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4), one.params, two.params)


def test_without_a_teacher_nothing_is_opened(home):
    config = build(student(home, task={}))
    assert open_teacher(config, None) == (config, None)
