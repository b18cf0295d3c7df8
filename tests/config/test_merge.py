import pytest

from jaxprop.config.merge import merge, overrides_tree
from jaxprop.config.tree import Tree
from jaxprop.errors import ConfigError

CNN = {"model": {"name": "cnn", "channels": [8], "hidden": [4], "dropout": 0.1}}
LIST = {"optimizer": {"name": "sgd", "groups": [{"match": "a"}, {"match": "b", "lr_scale": 2}]}}


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        # a new class keeps the inherited keys it knows
        (CNN, {"model": {"name": "mlp"}}, {"model": {"name": "mlp", "hidden": [4], "dropout": 0.1}}),
        (CNN, {"model": {"name": "cnn"}}, CNN),
        # text takes no augmentation
        (
            {"data": {"name": "digits", "batch_size": 8, "augment": [{"name": "flip"}]}},
            {"data": {"name": "stdlib_text"}},
            {"data": {"name": "stdlib_text", "batch_size": 8}},
        ),
        (
            CNN,
            {"model": {"name": "transformer", "heads": 2}},
            {"model": {"name": "transformer", "heads": 2, "dropout": 0.1}},
        ),
        (
            CNN,
            {"model": {"name": "mlp", "channels": [1]}},
            {"model": {"name": "mlp", "hidden": [4], "dropout": 0.1, "channels": [1]}},
        ),
        (CNN, {"model": {"name": "nonsense"}}, {"model": CNN["model"] | {"name": "nonsense"}}),
        (
            {
                "optimizer": {
                    "name": "adamw",
                    "lr": 1,
                    "b1": 0.8,
                    "schedule": {"name": "warmup_cosine", "warmup_steps": 5, "end_scale": 0.1},
                }
            },
            {"optimizer": {"name": "sgd", "schedule": {"name": "linear"}}},
            {"optimizer": {"name": "sgd", "lr": 1, "schedule": {"name": "linear", "end_scale": 0.1}}},
        ),
        # without weight decay there is nothing to mask, except where the mask is asked for
        (
            {"optimizer": {"name": "adamw", "lr": 1, "decay_mask": "matrices"}},
            {"optimizer": {"name": "sgd"}},
            {"optimizer": {"name": "sgd", "lr": 1}},
        ),
        (
            {"optimizer": {"name": "adamw", "lr": 1, "decay_mask": "matrices"}},
            {"optimizer": {"name": "lion"}},
            {"optimizer": {"name": "lion", "lr": 1, "decay_mask": "matrices"}},
        ),
        (
            {"optimizer": {"name": "adamw", "lr": 1}},
            {"optimizer": {"name": "sgd", "decay_mask": "matrices"}},
            {"optimizer": {"name": "sgd", "lr": 1, "decay_mask": "matrices"}},
        ),
        (
            {"task": {"name": "classify", "loss": None}},
            {"task": {"name": "language"}},
            {"task": {"name": "language", "loss": None}},
        ),
        # a run has one length
        ({"run": {"epochs": 1, "seed": 2}}, {"run": {"steps": 3}}, {"run": {"steps": 3, "seed": 2}}),
        ({"run": {"steps": 1}}, {"run": {"epochs": 3}}, {"run": {"epochs": 3}}),
        ({"run": {"epochs": 1}}, {"run": {"steps": None}}, {"run": {"epochs": 1, "steps": None}}),
        ({"run": {}}, {"run": {"epochs": 1, "steps": 1}}, {"run": {"epochs": 1, "steps": 1}}),
        # items by number
        (
            LIST,
            {"optimizer": {"groups": {"1": {"lr_scale": 3}}}},
            {"optimizer": {"name": "sgd", "groups": [{"match": "a"}, {"match": "b", "lr_scale": 3}]}},
        ),
        (
            {"model": {"name": "mlp", "hidden": [1, 2]}},
            {"model": {"hidden": {"0": 9}}},
            {"model": {"name": "mlp", "hidden": [9, 2]}},
        ),
    ],
)
def test_merge(old, new, merged):
    before = repr(old), repr(new)
    assert merge(Tree(old, {}), Tree(new, {})).value == merged
    assert (repr(old), repr(new)) == before


def test_an_item_that_does_not_exist():
    patch, problems = overrides_tree(["optimizer.groups.2.lr_scale=3"])
    assert not problems
    with pytest.raises(ConfigError, match=r"override '.*': optimizer\.groups\.2: there is no item 2; the list has 2"):
        merge(Tree(LIST, {}), patch)


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        (["a.b=1", "a.c=[x, 1e-3]"], {"a": {"b": 1, "c": ["x", 1e-3]}}),
        (["a=1", "a=2"], {"a": 2}),
        (["a={b: 1}", "a.c=2"], {"a": {"b": 1, "c": 2}}),
        (["a=x=y"], {"a": "x=y"}),
        (["a="], {"a": None}),
        (["a.0=1"], {"a": {"0": 1}}),
        (["run.steps=1", "run.epochs=2"], {"run": {"steps": 1, "epochs": 2}}),  # a contradiction, for checks
        ([], {}),
    ],
)
def test_overrides(overrides, value):
    tree, problems = overrides_tree(overrides)
    assert (tree.value, problems) == (value, [])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("lr", "override 'lr': expected key=value, such as optimizer.lr=3e-4"),
        ("=1", "override '=1': expected key=value"),
        ("a..b=1", "override 'a..b=1': expected key=value"),
        ("base=x.yaml", "override 'base=x.yaml': base can only be set in a file"),
        ("a=[1", "override 'a=[1': not valid YAML"),
        ("a=!!python/name:os.system", "override 'a=!!python/name:os.system': the tag"),
        ("a={b: 1, b: 2}", "override 'a={b: 1, b: 2}': b: written twice"),
    ],
)
def test_overrides_that_cannot_be_read_do_not_hide_the_others(override, sentence):
    tree, problems = overrides_tree(["x=1", override, "y=2"])
    assert tree.value == {"x": 1, "y": 2}
    assert len(problems) == 1
    assert problems[0].startswith(sentence)


def test_origins_follow_the_values():
    old = Tree({"a": {"b": 1, "c": 2}}, {"": "f:1", "a": "f:1", "a.b": "f:2", "a.c": "f:3"})
    patch, _ = overrides_tree(["a.b=[7]"])
    merged = merge(old, patch)
    assert merged.origin(("a", "b", 0)) == "override 'a.b=[7]'"
    assert merged.origin(("a", "c")) == "f:3"
    assert merged.origin(("a",)) == "f:1"
