import subprocess
import sys

import pytest

from jaxprop.config import locate
from jaxprop.config.load import load
from jaxprop.errors import ConfigError


def test_a_file_with_overrides(small):
    loaded = load(small, ["optimizer.lr=3e-4", "data.batch_size=128", "model.channels=[4]"])
    assert loaded.name == "small"
    assert loaded.config.optimizer.lr == 3e-4
    assert loaded.config.data.batch_size == 128
    assert loaded.config.model.channels == (4,)
    assert str(loaded.path) == small


def test_the_order_of_overrides_does_not_matter(small):
    one = load(small, ["model.name=mlp", "model.hidden=[3]"])
    other = load(small, ["model.hidden=[3]", "model.name=mlp"])
    assert one.config == other.config
    assert one.config.model.name == "mlp"
    assert one.config.model.dropout == 0.1  # inherited: mlp knows it too


def test_a_runs_config_is_named_after_its_folder(small, tmp_path):
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (tmp_path / small).rename(folder / "config.yaml")
    assert load("runs/first/config.yaml").name == "first"


def test_base_is_relative_to_the_file_that_names_it(small, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "middle.yaml").write_text("base: ../small.yaml\nmodel: {name: mlp}\nrun: {steps: 500}\n")
    (tmp_path / "child.yaml").write_text("base: sub/middle.yaml\noptimizer: {lr: 0.5}\n")
    loaded = load("child.yaml", ["data.batch_size=16"])
    config = loaded.config
    assert (config.model.name, config.optimizer.lr, config.data.batch_size) == ("mlp", 0.5, 16)
    assert (config.run.steps, config.run.epochs) == (500, None)
    assert config.optimizer.weight_decay == 0.01
    assert loaded.path.name == "child.yaml"


def test_a_base_may_be_a_packaged_config(small, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (tmp_path / small).rename(package / "digits.yaml")
    monkeypatch.setattr(locate, "packaged_folder", lambda: package)
    (tmp_path / "child.yaml").write_text("base: digits\nrun: {seed: 5}\n")
    assert load("child.yaml").config.run.seed == 5
    assert load("digits").name == "digits"


def test_an_error_names_the_file_that_holds_it(small, tmp_path):
    (tmp_path / "child.yaml").write_text("base: small.yaml\n\nrun: {seeed: 5}\noptimizer: {lr: x}\n")
    text = (tmp_path / small).read_text()
    (tmp_path / small).write_text(text.replace("dropout: 0.1", "dropout: 2"))
    with pytest.raises(ConfigError) as caught:
        load("child.yaml")
    assert caught.value.problems == [
        "small.yaml:8: model.dropout: expected a number below 1, got 2",
        "child.yaml:4: optimizer.lr: expected a number, got 'x'",
        "child.yaml:3: run.seeed: unknown key; did you mean 'seed'?",
    ]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a": "base: a.yaml\n"}, "a.yaml:1: base: files inherit from each other in a circle: a.yaml -> a.yaml"),
        (
            {"a": "base: b.yaml\n", "b": "base: c.yaml\n", "c": "\nbase: a.yaml\n"},
            "c.yaml:2: base: files inherit from each other in a circle: a.yaml -> b.yaml -> c.yaml -> a.yaml",
        ),
        ({"a": "base: smal.yaml\n"}, "a.yaml:1: base: smal.yaml: no such config; did you mean 'small.yaml'?"),
        ({"a": "base: [small.yaml]\n"}, "a.yaml:1: base: expected the name of a YAML file"),
        ({"a": "base: .\n"}, "a.yaml:1: base: .: is a directory"),
        ({"a": "base: b.yaml\n", "b": "- 1\n"}, "b.yaml:1: expected the sections task, data, model"),
        ({"a": "- task\n"}, "a.yaml:1: expected the sections task, data, model"),
        ({"a": "just text\n"}, "; got 'just text'"),
        ({"a": "# only a comment\n"}, "; got nothing"),
        ({"a": "task: [\n"}, "a.yaml:2: not valid YAML"),
        ({"a": "task: !!python/name:os.system\n"}, "a.yaml:1: the tag '!!python/name:os.system' is not allowed"),
    ],
)
def test_files_that_cannot_be_loaded(small, tmp_path, files, sentence):
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load("a.yaml")
    assert len(caught.value.problems) == 1
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 2


def test_null_base_inherits_nothing(small, tmp_path):
    (tmp_path / "a.yaml").write_text("base:\n" + (tmp_path / small).read_text())
    assert load("a.yaml").config == load(small).config


def test_config_never_imports_jax():
    heavy = "[name for name in ('jax', 'numpy', 'optax') if name in sys.modules]"
    code = f"import sys, jaxprop.config.load, jaxprop.config.diff; print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_keys_that_another_name_leaves_out_are_told(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "base: digits_mlp\n"
        "optimizer: {name: adamw, lr: 0.1, b2: 0.9, schedule: {name: warmup_cosine, warmup_steps: 5}}\n"
    )
    assert load(file, ["optimizer.lr=0.2"]).left_out == ()
    assert load(file, ["optimizer.name=muon", "optimizer.schedule.name=constant"]).left_out == (
        f"optimizer.name: muon has no b2, so that of {file}:2 (0.9) is left out",
        f"optimizer.schedule.name: constant has no warmup_steps, so that of {file}:2 (5) is left out",
    )
    # Another length of the run is no loss, and null stands for nothing.
    assert load(file, ["run.steps=90"]).left_out == ()
