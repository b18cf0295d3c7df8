"""Checkpoints of PyTorch: the outputs here are those of the models that they are of, to 1e-4.

`tests/run/pretrained` has tiny checkpoints and the outputs of `transformers` 5.24 and torchvision 0.29, written by
`scripts/make_pretrained.py`. Where the libraries are installed, fresh ones are made and compared, too.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxprop.config.build import build
from jaxprop.config.dump import dump
from jaxprop.config.weight_maps import weight_map
from jaxprop.errors import ConfigError, JaxpropError, UsageError
from jaxprop.run.compose import compose
from jaxprop.run.initial import begin
from jaxprop.run.pretrained import written
from jaxprop.types import Source

MADE = Path(__file__).parent / "pretrained"
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_pretrained.py"
GPT2 = {"name": "transformer", "layers": 2, "width": 8, "heads": 2, "positions": "learned", "norm_epsilon": 1e-5}
BERT = {
    "name": "transformer", "layers": 2, "width": 8, "heads": 2, "ff_multiple": 2, "positions": "learned",
    "norm_order": "post", "norm_epsilon": 1e-12, "activation": "gelu_exact", "pool": "first", "token_types": 2,
}  # fmt: skip
RESNET = {"name": "resnet", "stem": "large", "depths": [1, 2, 1, 1], "widths": [4, 4, 8, 8]}
SMALL = {"name": "resnet", "stem": "large", "depths": [1, 2], "widths": [4, 8]}
CASES = {  # folder: map, model
    "gpt2": ("gpt2", GPT2),
    "bert": ("bert", BERT),
    "resnet": ("resnet", RESNET),
    "resnet_bottleneck": ("resnet", {**RESNET, "block": "bottleneck"}),
    "resnet_transformers": ("resnet_transformers", SMALL),
}
DATA = {"gpt2": "stdlib_text", "bert": "reviews"} | dict.fromkeys(
    ("resnet", "resnet_bottleneck", "resnet_transformers"), "digits"
)
TOKENS = 11
COMPOSED = {}  # by configuration without its weights


def experiment_of(name, source=None, *, model=None, run=None, changes=None, **init_from):
    """A run that starts from a checkpoint, on data like its example, and the example."""
    example = dict(np.load(MADE / name / "example.npz"))
    map_name, expected = CASES[name]
    task = "language" if name == "gpt2" else "classify"
    section = {"from": str(MADE / name if source is None else source), "map": map_name, **init_from}
    config = build({
        "task": {"name": task}, "data": {"name": DATA[name], "batch_size": 2},
        "model": {**(model or expected), **(changes or {})}, "optimizer": {"name": "sgd", "lr": 0.1},
        "run": {"steps": 1, "init_from": section, **(run or {})}, "parallel": {"devices": 1},
    })  # fmt: skip
    plain = config.model_copy(update={"run": config.run.model_copy(update={"init_from": None})})
    key = dump(plain)
    if key not in COMPOSED:
        COMPOSED[key] = compose(plain, {"train": source_of(example, task)})
    return COMPOSED[key]._replace(config=config), example


def source_of(example, task):
    """The example's inputs with labels, as a split of data."""
    batch = {key: array for key, array in example.items() if key != "outputs"}
    labels = batch["inputs"] if task == "language" else np.arange(len(batch["inputs"]), dtype=np.int32)
    sizes = {"vocabulary": TOKENS} if batch["inputs"].dtype == np.int32 else {}
    sizes |= {} if task == "language" else {"classes": 3}
    batch["labels"] = labels
    return Source(len(labels), lambda rows: {key: array[rows] for key, array in batch.items()}, sizes, "a")


def outputs_of(experiment, state, example):
    batch = {key: array for key, array in example.items() if key != "outputs"}
    return np.asarray(experiment.task.model.apply(state.params, state.extras, batch, key=None, train=False)[0])


@pytest.mark.parametrize("name", CASES)
def test_the_outputs_are_those_of_pytorch(name):
    experiment, example = experiment_of(name)
    state, notes = begin(experiment)
    difference = np.abs(outputs_of(experiment, state, example) - example["outputs"]).max()
    assert difference < 1e-4
    assert np.abs(example["outputs"]).max() > 0.1
    assert not any(note.startswith(("warning", "not in there")) for note in notes), notes


@pytest.mark.parametrize("name", CASES)
def test_the_outputs_are_those_of_the_installed_libraries(name, tmp_path):
    for library in ("torch", "torchvision", "transformers"):
        pytest.importorskip(library)
    script = loaded_script()
    script.SEED = 1
    script.write(name, tmp_path / name)
    experiment, _ = experiment_of(name, tmp_path / name)
    example = dict(np.load(tmp_path / name / "example.npz"))
    difference = np.abs(outputs_of(experiment, begin(experiment)[0], example) - example["outputs"]).max()
    assert difference < 1e-4


def loaded_script():
    spec = importlib.util.spec_from_file_location("make_pretrained", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- files ----------------------------------------------------------------------------------------


def copied(name, folder, change=dict, config=None):
    """A checkpoint with other arrays, or with other keys in its config.json."""
    folder.mkdir(exist_ok=True)
    save_file(change(load_file(MADE / name / "model.safetensors")), folder / "model.safetensors")
    if (MADE / name / "config.json").exists():
        held = json.loads((MADE / name / "config.json").read_text()) | (config or {})
        (folder / "config.json").write_text(json.dumps(held))
    return folder


def in_two_parts(name, folder):
    """A checkpoint as large ones are: several files and an index."""
    arrays = load_file(MADE / name / "model.safetensors")
    parts = {"a.safetensors": list(arrays)[::2], "b.safetensors": list(arrays)[1::2]}
    for part, names in parts.items():
        save_file({key: arrays[key] for key in names}, folder / part)
    index = {"weight_map": {key: part for part, names in parts.items() for key in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_several_files_are_one_checkpoint(tmp_path):
    in_two_parts("gpt2", tmp_path)
    for source in (tmp_path, tmp_path / "model.safetensors.index.json"):
        experiment, example = experiment_of("gpt2", source)
        assert np.allclose(outputs_of(experiment, begin(experiment)[0], example), example["outputs"], atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_arrays_of_half_precision_are_cast(tmp_path, dtype):
    def change(arrays):
        return {key: array.astype(jax.numpy.dtype(dtype)) for key, array in arrays.items()}

    experiment, example = experiment_of("gpt2", copied("gpt2", tmp_path / "half", change))
    state, _ = begin(experiment)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype("float32")}
    assert np.allclose(outputs_of(experiment, state, example), example["outputs"], atol=0.1)


def empty(folder):
    pass


def truncated(folder):
    content = (MADE / "gpt2" / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def missing_part(folder):
    (in_two_parts("gpt2", folder) / "b.safetensors").unlink()


def index_outside(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')


def broken_index(folder):
    (folder / "model.safetensors.index.json").write_text("[]")


def pickled(folder):
    (folder / "pytorch_model.bin").write_bytes(b"")


def config_alone(folder):
    (folder / "config.json").write_text("{}")


def two_files(folder):
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(MADE / "gpt2" / "model.safetensors", folder / name)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (truncated, "model.safetensors cannot be read as a safetensors file"),
        (missing_part, "names b.safetensors, which is missing; copy it there, too"),
        (index_outside, r"names '\.\./b\.safetensors', which is no \.safetensors file beside it"),
        (broken_index, "model.safetensors.index.json is no index of safetensors files"),
        (pickled, r"has pytorch_model.bin and no .safetensors file: .* safetensors.torch.save_file\(model.state_dict"),
        (config_alone, "has a config.json and no .safetensors file; copy the weights into it, too"),
        (two_files, "has a.safetensors, b.safetensors; name the one that is meant"),
        (empty, "there has no .safetensors file, and is no run's folder"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, make, sentence):
    (tmp_path / "there").mkdir()
    make(tmp_path / "there")
    with pytest.raises(JaxpropError, match=sentence) as caught:
        begin(experiment_of("gpt2", tmp_path / "there")[0])
    assert "\n" not in str(caught.value)


def test_pickles_are_not_opened(tmp_path):
    with pytest.raises(UsageError, match="is no safetensors file: jaxprop reads safetensors only"):
        begin(experiment_of("gpt2", tmp_path / "model.pt")[0])


# -- models that differ ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "gpt2",
            {"width": 16},
            r"out/bias is float32\[8\] in .* \(transformer.h.0.attn.c_proj.bias\) and float32\[16\] in this model; "
            "write model.width=8$",
        ),
        ("gpt2", {"ff_multiple": 2}, "write model.ff_multiple=4"),
        ("bert", {"token_types": 3}, "write model.token_types=2"),
        ("resnet", {"block": "bottleneck"}, "write model.block=basic"),
        ("resnet", {"widths": [8, 4, 8, 8]}, r"write model.widths=\[4,4,8,8\]"),
        ("resnet", {"name": "vit", "depths": None}, r"are of another model; write model.name=resnet"),
    ],
)  # fmt: skip
def test_another_shape_names_the_key(name, changes, sentence):
    model = {"name": "vit", "patch": 11} if changes.get("name") else None
    with pytest.raises(UsageError, match=sentence):
        begin(experiment_of(name, model=model, changes=None if model else changes)[0])


def test_a_vocabulary_of_another_size_names_the_tokenizer(tmp_path):
    def change(arrays):
        return arrays | {"transformer.wte.weight": np.zeros((13, 8), np.float32)}

    with pytest.raises(
        UsageError, match=r"the checkpoint's tokenizer, which has 13 tokens, with data.tokenizer: PATH/"
    ):
        begin(experiment_of("gpt2", copied("gpt2", tmp_path / "there", change))[0])


def test_positions_are_cut_and_not_made_up(tmp_path):
    experiment, _ = experiment_of("gpt2")
    state, notes = begin(experiment)
    assert "cut to the length of this model's: positions (7 of 14 rows)" in notes
    held = load_file(MADE / "gpt2" / "model.safetensors")["transformer.wpe.weight"]
    assert np.array_equal(state.params["positions"]["embedding"], held[:7])

    def change(arrays):
        return arrays | {"transformer.wpe.weight": held[:5]}

    with pytest.raises(UsageError, match=r"write data.sequence_length=5"):
        begin(experiment_of("gpt2", copied("gpt2", tmp_path / "there", change))[0])


@pytest.mark.parametrize(
    ("name", "changes", "config", "sentence"),
    [
        ("gpt2", {"norm_epsilon": 1e-6}, {}, "made for model.norm_epsilon=1e-05, and the outputs are others"),
        ("gpt2", {"heads": 4}, {}, "made for model.heads=2,"),
        ("gpt2", {}, {"activation_function": "relu"}, "made for model.activation=relu,"),
        ("gpt2", {"layers": 1}, {}, "made for model.layers=2,"),
        ("bert", {"norm_order": "pre"}, {}, "made for model.norm_order=post,"),
        ("bert", {"pool": "mean", "activation": "gelu"}, {}, "model.activation=gelu_exact model.pool=first,"),
        ("resnet", {"activation": "silu"}, {}, "made for model.activation=relu,"),
        (
            "bert",
            {},
            {"model_type": "roberta"},
            'says model_type: "roberta", and the model here is that of model_type: "b',
        ),
        ("bert", {}, {"is_decoder": True}, "says is_decoder: true, and"),
        ("gpt2", {}, {"scale_attn_by_inverse_layer_idx": True}, "says scale_attn_by_inverse_layer_idx: true, and"),
        (
            "resnet_transformers",
            {},
            {"downsample_in_bottleneck": True},
            "here is that of downsample_in_bottleneck: false",
        ),
    ],
)
def test_a_model_with_other_outputs_is_told(tmp_path, name, changes, config, sentence):
    source = copied(name, tmp_path / "there", config=config) if config else None
    notes = begin(experiment_of(name, source, changes=changes)[0])[1]
    (warning,) = [note for note in notes if note.startswith("warning")]
    assert sentence in warning


def test_a_config_that_holds_anything_else_is_not_taken(tmp_path):
    config = {
        "activation_function": ["gelu"],
        "n_head": {"a": 1},
        "n_embd": None,
        "model_type": [],
        "layer_norm_epsilon": 1e-5,
    }
    notes = begin(experiment_of("gpt2", copied("gpt2", tmp_path / "there", config=config))[0])[1]
    assert not any(note.startswith("warning") for note in notes)


def test_kernels_of_another_number_of_axes_are_told(tmp_path):
    def change(arrays):
        return {key: a.sum((2, 3)) if key == "layer1.0.conv1.weight" else a for key, a in arrays.items()}

    with pytest.raises(UsageError, match=r"transpose: \[2, 3, 1, 0\] is for 4 axes, and layer1/0/conv1/weight has 2"):
        begin(experiment_of("resnet", copied("resnet", tmp_path / "there", change))[0])


def test_heads_are_told_where_nothing_says_them(tmp_path):
    shutil.copy(MADE / "gpt2" / "model.safetensors", tmp_path / "weights.safetensors")
    notes = begin(experiment_of("gpt2", tmp_path / "weights.safetensors")[0])[1]
    assert any("model.heads=2 is taken" in note for note in notes)


def test_a_new_head_is_drawn_and_what_is_left_is_listed(tmp_path):
    def change(arrays):
        return {key: a for key, a in arrays.items() if "classifier" not in key} | {"cls.bias": np.ones(3)}

    experiment, _ = experiment_of("bert", copied("bert", tmp_path / "there", change))
    notes = begin(experiment)[1]
    assert "not in there and drawn: head" in notes
    assert "not used of them: cls" in notes


def test_statistics_of_batch_normalization_are_loaded():
    experiment, _ = experiment_of("resnet")
    held = load_file(MADE / "resnet" / "model.safetensors")
    state, _ = begin(experiment)
    norm = state.extras["stages"][1][0]["shortcut"]["norm"]
    assert np.array_equal(norm["var"], held["layer2.0.downsample.1.running_var"])


def test_without_a_map_the_one_that_fits_is_advised():
    with pytest.raises(UsageError, match=r"no parameter of this model is in .*; write map: gpt2"):
        begin(experiment_of("gpt2", map={})[0])


def test_another_map_than_the_one_that_fits():
    with pytest.raises(UsageError, match=r"map: resnet does not fit the arrays of .*gpt2; write map: gpt2"):
        begin(experiment_of("gpt2", map="resnet")[0])


# -- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            {"from": "wte/weight", "to": "a"},
            "the rule from 'wte/weight' matches no array of .*; remove it, or write opt",
        ),
        ({"from": ".*ln_[12]/weight", "to": "a"}, "h/0/ln_1/weight and .* both become a; give one of them another"),
        ({"from": ".*wte/weight", "to": "a", "part": [0, 2]}, "a is joined from 2 arrays, of which there is .* alone"),
        ({"from": ".*wte/weight", "to": "a", "transpose": [2, 3, 1, 0]}, r"is for 4 axes, and .* has 2, \[11, 8\]"),
        ({"from": ".*wte/weight", "to": "\\3"}, r"'\\\\3' cannot be filled in"),
        ({"from": ".*(w)te/weight", "to": "\\1", "from_one": [1]}, "cannot be filled in"),
    ],
)
def test_rules_that_do_not_fit(rule, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        begin(experiment_of("gpt2", map=[rule])[0])
    assert "\n" not in str(caught.value)


def test_parts_that_cannot_be_joined():
    rules = [
        {"from": ".*wte/weight", "to": "a", "part": [0, 2]},
        {"from": ".*h/0/ln_1/weight", "to": "a", "part": [1, 2]},
    ]
    with pytest.raises(UsageError, match=r"a cannot be joined from transformer/wte/weight \[11, 8\] and .* \[8\]"):
        begin(experiment_of("gpt2", map=rules)[0])


def test_a_file_of_rules(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text("- {from: .*wte/weight, to: embed/embedding}\n")
    state, notes = begin(experiment_of("gpt2", map=str(path))[0])
    held = load_file(MADE / "gpt2" / "model.safetensors")["transformer.wte.weight"]
    assert np.array_equal(state.params["embed"]["embedding"], held)
    assert any(note.startswith("not used of them: transformer/h/0/attn/c_attn") for note in notes)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- {from: a, too: b}\n", "rules.yaml:1: rules.0.t"),
        ("- {from: (, to: b}\n", "rules.yaml:1: rules.0.from: '(' is not a regular expression"),
        ("7\n", "rules.yaml:1: expected a mapping of keys to values, got 7"),
        ("", "rules.yaml: the file is empty"),
    ],
)
def test_files_that_hold_no_rules(tmp_path, text, sentence):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        weight_map(str(path))
    assert sentence in caught.value.problems[0]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"map": "gtp2"}, "run.init_from.map: unknown map 'gtp2'; did you mean 'gpt2'?"),
        ({"map": "gpt2", "transpose": [".*"]}, "run.init_from.transpose: is for a map of patterns and names"),
        ({"map": [{"from": "a", "to": "b", "transpose": [1, 1]}]}, "map.0.transpose: expected each axis once"),
        ({"map": [{"from": "a", "to": "b", "part": [3, 3]}]}, "map.0.part: expected [number, of how many]"),
    ],
)
def test_mistakes_in_a_configuration(given, sentence):
    with pytest.raises(ConfigError) as caught:
        experiment_of("gpt2", **given)
    assert sentence in caught.value.problems[0]


@pytest.mark.parametrize("name", ["gpt2", "bert", "resnet"])
def test_every_packaged_map_makes_a_model_that_is_valid(name):
    made = weight_map(name)
    assert {rule.optional for rule in made.rules} == {True, False}
    experiment_of(name, changes=made.model)
    assert written(made.model).startswith("model.name=")
