import pytest
import yaml

from jaxprop.config.build import build
from jaxprop.config.dump import dump, with_absolute_paths
from jaxprop.config.load import load
from jaxprop.config.schema.optax_table import OPTIMIZERS
from jaxprop.config.schema.optimizer import optimizer_model

CHANGES = [
    {},
    {"task": {"name": "classify", "loss": {"name": "softmax_cross_entropy", "label_smoothing": 0.1}}},
    {"data": {"name": "arrays", "train": "1e3", "test": "no"}},
    {"data": {"name": "arrays", "train": "0o17", "test": "<<: ~ # 'x'\n\u00e9"}},
    {"data": {"name": "arrays", "train": ".inf", "test": "null", "classes": 3}},
    {"data": {"name": "arrays", "train": "2001-01-01", "test": "12:30:45"}},
    {"data": {"name": "images", "train": "a", "validation": 0.5, "size": [8, 9], "channels": 1}},
    {
        "data": {
            "name": "mixture",
            "sources": [{"name": "digits"}, {"name": "arrays", "train": "a"}],
            "weights": [0.5, 2],
        }
    },
    {
        "data": {
            "name": "mixture",
            "sources": [{"name": "digits"}, {"name": "digits"}],
            "weights": [{"after": 0, "weights": [1, 2]}, {"after": 9, "weights": [0, 1]}],
        }
    },
    {
        "optimizer": {
            "name": "adamw",
            "lr": 1e-20,
            "mu_dtype": "bfloat16",
            "schedule": {"name": "piecewise", "boundaries": [3], "scales": [0.5]},
        }
    },
    {
        "optimizer": {
            "name": "adamw",
            "lr": 1,
            "decay_mask": ["010", ".*/kernel"],
            "groups": [{"match": "true", "freeze": True}],
        }
    },
    {"optimizer": {"name": "adafactor", "lr": None}},
    {"optimizer": {"name": "adafactor", "lr": 0.1, "clipping_threshold": None}},
    {"model": {"class": "/a/net.py:Net", "sizes": [1, 2], "more": {"a": None, "b": [True]}, "text": "1e-3"}},
    {"data": {"class": "a.b:make", "train": 0.5, "batch_size": 8, "class_sha256": "0" * 64}},
    {"task": {"name": "classify", "loss": {"class": "/l.py:x"}, "metrics": {"f1": {"class": "/m.py:f1", "k": 2}}}},
    {"optimizer": {"class": "optax:sgd", "lr": 0.1, "schedule": {"name": "cosine"}, "momentum": 0.9}},
    {"model": {"name": "mlp", "hidden": []}, "run": {"steps": 3, "ema_decay": 0.999}},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_dumped_config_loads_to_an_equal_one(sections, changes, tmp_path):
    config = build(sections | changes)
    (tmp_path / "config.yaml").write_text(dump(config))
    again = load(tmp_path / "config.yaml")
    assert again.config == config
    assert dump(again.config) == dump(config)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_survives(sections, name, tmp_path):
    required = {"lr": 0.1} if optimizer_model(name).model_fields["lr"].is_required() else {}
    config = build(sections | {"optimizer": {"name": name} | required})
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(tmp_path / "config.yaml").config == config


def test_the_text_is_for_people(sections, tmp_path):
    lines = dump(build(sections), tmp_path).splitlines()
    assert lines[0].startswith("# yaml-language-server: $schema=")
    assert lines[1] == "task: {name: classify}"
    assert any(line.startswith("run: {epochs: 1, seed: 0") for line in lines)
    assert not [line for line in lines if "null" in line or "!!" in line or "&" in line]
    assert yaml.safe_load("\n".join(lines))["data"]["batch_size"] == 64


def test_paths_become_absolute_and_numbers_stay(sections, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = {"name": "images", "train": "photos", "validation": 0.25, "root": "all"}
    other = one | {"validation": "held"}
    made = with_absolute_paths(build(sections | {"data": {"name": "mixture", "sources": [one, other]}}))
    first, second = made.data.sources
    assert (first.train, first.validation, first.root) == (str(tmp_path / "photos"), 0.25, str(tmp_path / "all"))
    assert second.validation == str(tmp_path / "held")
