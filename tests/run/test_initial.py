"""Weights that a run starts from: taken, mapped, skipped, frozen, and refused where they do not fit."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxprop.config.build import build
from jaxprop.config.diff import mathematical
from jaxprop.config.dump import dump
from jaxprop.config.load import load as load_config
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ConfigError, JaxpropError, UsageError
from jaxprop.run import initial
from jaxprop.run.compose import compose
from jaxprop.run.held import of_frozen_layers
from jaxprop.run.initial import Weights, begin, fill, read_weights, renamed, resolved, transposed
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.export.weights import named_arrays
from tests.run.trained import sections, trained, write_arrays


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A trained run, whose folder's folder has arrays of four classes, so that another head is needed."""
    folder = trained(tmp_path_factory.mktemp("home"))
    write_arrays(folder.parent, classes=4)
    return folder


def config(first, init_from, **changes):
    run = {"steps": 6, "eval_every": 3, "log_every": 1, "init_from": init_from}
    return build(sections(first.parent, run=run, **changes))


def arrays_of(tree):
    import jax

    return dict(zip(leaf_paths(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True))


def test_a_new_head_on_a_frozen_body(first, tmp_path, capfd):
    """What stays is bitwise what the best checkpoint holds, and what is new learns."""
    given = {"from": str(first), "skip": ["head/.*"], "freeze": ["layers/.*"]}
    outcome = train(config(first, given, sinks={"console": True}), tmp_path / "tuned")
    said = capfd.readouterr().err
    source, tuned = load(first), load(tmp_path / "tuned", which="newest", ema=False)
    assert f"initial weights of {first} (best checkpoint, step {source.step}): " in said
    assert "skipped and drawn: head\n" in said
    assert (
        "frozen: layers/0/dense, layers/0/norm; but the statistics of layers/0/norm follow the data, unless "
        "init_from.freeze_statistics is true\n"
    ) in said
    before, after = arrays_of(source.params), arrays_of(tuned.params)
    kept = [path for path in before if path.startswith("layers/")]
    assert kept
    assert all(np.array_equal(before[path], after[path]) for path in kept)
    moved = arrays_of(tuned.extras)
    assert not any(np.array_equal(array, moved[path]) for path, array in arrays_of(source.extras).items())
    assert after["head/kernel"].shape == (8, 4)
    assert outcome.summary["status"] == "completed"
    assert set(tuned.layers["layer"]) == {"head"}
    assert tuned.opened.experiment.optimizer.lr_scales.count(0.0) == len(kept)


@pytest.mark.parametrize(("accumulate", "per_call"), [(1, 1), (2, 3)])
def test_the_statistics_of_a_frozen_body_are_held_where_that_is_asked_for(first, tmp_path, accumulate, per_call):
    given = {"from": str(first), "skip": ["head/.*"], "freeze": ["layers/.*"], "freeze_statistics": True}
    made = config(first, given)
    run = made.run.model_copy(update={"accumulate": accumulate, "steps_per_call": per_call, "log_every": 3})
    experiment = compose(made.model_copy(update={"run": run}))
    assert begin(experiment)[1][-1] == "frozen: layers/0/dense, layers/0/norm, with the statistics of layers/0/norm"
    train(made.model_copy(update={"run": run}), tmp_path / "tuned", quiet=True)
    before, after = (arrays_of(load(run, which="newest", ema=False).extras) for run in (first, tmp_path / "tuned"))
    before = arrays_of(load(first).extras)
    assert before
    assert all(np.array_equal(before[path], after[path]) for path in before)


def test_only_frozen_layers_have_their_statistics_held():
    params, extras = ["a/norm/scale", "a/norm/bias", "b/norm/scale"], ["a/norm/mean", "b/norm/mean"]
    assert of_frozen_layers(["a/norm/(scale|bias)"], params, extras) == ["a/norm/mean"]
    assert of_frozen_layers(["a/norm/scale"], params, extras) == []
    assert of_frozen_layers([".*/mean"], params, extras) == extras


def test_a_head_of_more_classes_keeps_what_it_has(first):
    """The columns of the old classes are those that were trained, and the new ones are as they were drawn."""
    experiment = compose(config(first, {"from": str(first), "extend": ["head/.*"]}))
    state, notes = begin(experiment)
    before, after, drawn = (arrays_of(tree) for tree in (load(first).params, state.params, experiment.init(0).params))
    for path in ("head/kernel", "head/bias"):
        assert np.array_equal(after[path][..., :3], before[path])
        assert np.array_equal(after[path][..., 3:], drawn[path][..., 3:])
    assert np.array_equal(after["layers/0/dense/kernel"], before["layers/0/dense/kernel"])
    assert "extended, and the rest drawn: head" in notes


def test_a_head_of_fewer_classes_is_no_extension(first):
    with pytest.raises(UsageError, match=r"head/kernel is float32\[8, 3\] .* float32\[4, 4\] in this model"):
        begin(compose(config(first, {"from": str(first), "extend": [".*"]}, model={"hidden": [4]})))


SQUARE = {"hidden": [5], "batch_norm": False}  # as many units as there are features


def torch_file(first, tmp_path, name="fc"):
    """Weights of an MLP as PyTorch names and orders them."""
    experiment = compose(config(first, None, model=SQUARE))
    params = arrays_of(experiment.init(3).params)
    arrays = {
        f"{name}.weight": params["layers/0/dense/kernel"].T, f"{name}.bias": params["layers/0/dense/bias"],
        "head.weight": params["head/kernel"].T, "head.bias": params["head/bias"],
    }  # fmt: skip
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, tmp_path / "torch.safetensors")
    names = {
        f"{name}/weight": "layers/0/dense/kernel",
        "head/weight": "head/kernel",
        f"{name}/(.*)": "layers/0/dense/\\1",
    }
    return params, {"from": str(tmp_path / "torch.safetensors"), "map": names}


def test_weights_of_pytorch_are_turned(first, tmp_path):
    params, given = torch_file(first, tmp_path)
    state, notes = begin(compose(config(first, {**given, "transpose": [".*/weight"]}, model=SQUARE)))
    loaded = arrays_of(state.params)
    assert all(np.array_equal(loaded[path], params[path]) for path in ("layers/0/dense/kernel", "head/kernel"))
    assert notes[-1] == "transposed from [out, in, ...]: fc/weight, head/weight"


def test_a_square_weight_that_is_not_turned_is_told(first, tmp_path):
    _, given = torch_file(first, tmp_path)
    _, notes = begin(compose(config(first, {**given, "transpose": ["head/weight"]}, model=SQUARE)))
    assert notes[-1].startswith("warning: fc/weight is square, so shapes do not tell whether the axes are PyTorch's")
    assert notes[-1].endswith("add transpose: ['fc/weight']")
    with pytest.raises(UsageError, match=r"head/kernel is float32\[4, 5\] .* with the axes in PyTorch's order"):
        begin(compose(config(first, {**given, "transpose": ["fc/weight"]}, model=SQUARE)))


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [("fc", "transpose: 'fc' matches no array of "), (".*/bias", "transpose: fc/bias has 1 axes; name arrays of 2 or")],
)
def test_what_cannot_be_turned(first, tmp_path, pattern, sentence):
    _, given = torch_file(first, tmp_path)
    with pytest.raises(UsageError, match=sentence):
        begin(compose(config(first, {**given, "transpose": [pattern]}, model=SQUARE)))


def test_kernels_of_convolutions_are_turned():
    weight = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    turned, _ = transposed(Weights({"conv/weight": weight}, {}, "there"), ["conv/.*"])
    assert turned.params["conv/weight"].shape == (4, 5, 3, 2)
    assert turned.params["conv/weight"][1, 2, 0, 1] == weight[1, 0, 1, 2]


def test_a_resumed_run_does_not_load_again(first, tmp_path, monkeypatch):
    given = {"from": str(first), "skip": ["head/.*"]}
    whole = train(config(first, given), tmp_path / "whole", quiet=True).summary
    short = config(first, given).model_copy(update={"run": config(first, given).run.model_copy(update={"steps": 3})})
    train(short, tmp_path / "parts", quiet=True)
    monkeypatch.setattr(initial, "read_weights", lambda source: pytest.fail("loaded again"))
    parts = train(config(first, given), tmp_path / "parts", quiet=True).summary
    assert parts["metrics"] == whole["metrics"]


def test_it_starts_where_the_other_run_was(first):
    """Without a new head the first evaluation is the other run's."""
    from jaxprop.run.evaluate import evaluate

    (first.parent / "three").mkdir()
    write_arrays(first.parent / "three")
    experiment = compose(build(sections(first.parent / "three", run={"init_from": str(first), "ema_decay": 0.9})))
    state, notes = begin(experiment)
    assert len(notes) == 1
    figures = evaluate(experiment, state)
    best = load(first).summary["best"]
    assert figures == pytest.approx({name: best[name] for name in figures}, rel=1e-5)
    assert np.array_equal(arrays_of(state.ema.params)["head/kernel"], arrays_of(state.params)["head/kernel"])


def test_a_file_of_weights_is_the_same_as_the_run(first, tmp_path):
    run = load(first)
    save_file(named_arrays(run.params, run.extras), tmp_path / "model.safetensors")
    given = read_weights(str(tmp_path / "model.safetensors"))
    whole = read_weights(str(first))
    assert sorted(given.params) == sorted(whole.params)
    assert sorted(given.extras) == sorted(whole.extras)
    assert all(np.array_equal(given.params[path], whole.params[path]) for path in whole.params)


def test_names_of_another_model_are_mapped(first, tmp_path):
    run = load(first)
    body = {
        f"encoder.{path.replace('/', '.')}": array
        for path, array in arrays_of(run.params).items()
        if "head" not in path
    }
    save_file(body, tmp_path / "encoder.safetensors")
    given = {"from": str(tmp_path / "encoder.safetensors"), "map": {"encoder/(.*)": "\\1"}}
    state, notes = begin(compose(config(first, given)))
    assert np.array_equal(arrays_of(state.params)["layers/0/dense/kernel"], body["encoder.layers.0.dense.kernel"])
    assert any(note == "not in there and drawn: head" for note in notes)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {},
            r"head/bias is float32\[3\] in .* and float32\[4\] in this model; draw it anew with skip: \['head/\.\*'\]",
        ),
        ({"skip": ["haed/.*"]}, r"run.init_from.skip: 'haed/\.\*' matches no parameter; there are: head, layers/0"),
        (
            {"freeze": ["layers"], "skip": ["head/.*"]},
            r"freeze: 'layers' matches no parameter; write 'layers/\.\*' for",
        ),
        ({"freeze": [".*"], "skip": ["head/.*"]}, "run.init_from.freeze: every parameter is frozen"),
        (
            {"freeze": ["head/.*"], "skip": ["head/.*"]},
            "freeze: head/bias is not loaded, so it would stay as it was drawn",
        ),
        (
            {"map": {"backbone/(.*)": "\\1"}},
            r"map: 'backbone/\(\.\*\)' matches no array of .*; there are: head, layers/0",
        ),
        ({"map": {"(.*)": "other/\\1"}}, "no parameter of this model is in .*, which has other/head"),
        ({"map": {"(.*)": "\\2"}}, r"map: '\\\\2' cannot be filled in"),
        ({"map": {".*": "one"}}, "two arrays of .* get the name one; map one of them"),
    ],
)
def test_what_does_not_fit(first, given, sentence):
    with pytest.raises(JaxpropError, match=sentence) as caught:
        begin(compose(config(first, {"from": str(first), **given})))
    assert "\n" not in str(caught.value)


def test_sources_that_cannot_be_read(first, tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"no header")
    for source in ("damaged.safetensors", "missing.safetensors"):
        with pytest.raises(UsageError, match=rf"{source} cannot be read as a safetensors file"):
            read_weights(str(tmp_path / source))
    with pytest.raises(UsageError, match="there is no such run folder"):
        read_weights(str(tmp_path / "nowhere"))


def test_integers_are_not_taken_for_floats():
    section = build_section({"from": "a"})
    with pytest.raises(UsageError, match=r"w is int32\[2\] in there and float32\[2\] in this model"):
        fill({"w": jnp.ones(2)}, {"w": np.ones(2, np.int32)}, section, "there")
    filled = fill({"w": jnp.ones(2)}, {"w": np.full(2, 0.5, np.float16)}, section, "there")
    assert filled.tree["w"].dtype == jnp.float32
    assert filled.tree["w"].tolist() == [0.5, 0.5]


def build_section(given):
    return build(sections_of(given)).run.init_from


def sections_of(given):
    base = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}}
    return base | {"optimizer": {"name": "sgd", "lr": 0.1}, "run": {"epochs": 1, "init_from": given}}


# -- in a configuration ---------------------------------------------------------------------------


def test_a_text_is_short_for_its_source(tmp_path):
    assert build_section("runs/a") == build_section({"from": "runs/a"})
    path = tmp_path / "config.yaml"
    given = build(sections_of({"from": "runs/a", "map": {"a/(.*)": "b/\\1"}, "skip": ["head/.*"]}))
    path.write_text(dump(given))
    assert load_config(path).config == given


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (3, "run.init_from: expected"),
        ({"skip": ["a"]}, "run.init_from.from: required key is missing"),
        ({"from": "a", "freze": ["a"]}, "run.init_from.freze: unknown key; did you mean 'freeze'?"),
        ({"from": "a", "freeze": ["("]}, "run.init_from.freeze.0: '(' is not a regular expression"),
        ("", "run.init_from"),
    ],
)
def test_mistakes_in_it(given, sentence):
    with pytest.raises(ConfigError) as caught:
        build(sections_of(given))
    assert sentence in caught.value.problems[0]


def test_other_weights_are_another_run():
    old, new = (build(sections_of(given)) for given in ("runs/a", {"from": "runs/a", "freeze": ["head/.*"]}))
    assert [change.path for change in mathematical(old, new)] == [("run", "init_from", "freeze")]


def test_its_path_is_the_same_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for given, path in (
        ("runs/a", "runs/a"),
        ("a", "runs/a"),
        ("here", "here"),
        ("a.safetensors", "a.safetensors"),
        (str(tmp_path / "b"), "b"),
    ):
        assert resolved(build(sections_of(given))).run.init_from.source == str(tmp_path / path)
    (tmp_path / "runs" / "here").mkdir(parents=True)
    (tmp_path / "runs" / "here" / "config.yaml").write_text("")
    assert resolved(build(sections_of("here"))).run.init_from.source == str(tmp_path / "runs" / "here")
    without = build(sections_of("a") | {"run": {"epochs": 1}})
    assert resolved(without) is without


def test_the_first_pattern_that_matches_gives_the_name():
    given = Weights({"a/x": 1, "b/x": 2}, {"a/m": 3}, "there")
    assert renamed(given, {"a/x": "first", "a/(.*)": r"c/\1"}) == Weights({"first": 1, "b/x": 2}, {"c/m": 3}, "there")
