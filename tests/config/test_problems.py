"""One bad override a row: the sentence it gives, by way of `load`."""

import pytest

from jaxprop.config.load import load
from jaxprop.config.problems import shown
from jaxprop.errors import ConfigError

TABLE = [
    ("optimizer.lrr=1", "optimizer.lrr: unknown key; did you mean 'lr'?"),
    ("optimizer.learning_rate=1", "optimizer.learning_rate: unknown key; did you mean 'lr'?"),
    ("modle={}", "modle: unknown key; did you mean 'model'?"),
    ("lr=1", "lr: unknown key; did you mean 'optimizer.lr'?"),
    ("model.epochs=1", "model.epochs: unknown key; did you mean 'run.epochs'?"),
    ("sinks.carrier_pigeon=1", "sinks.carrier_pigeon: unknown key (known: console, jsonl, tensorboard, wandb,"),
    ("model.channel=[1]", "model.channel: unknown key; did you mean 'channels'?"),
    ("run.3=1", "run.3: unknown key (known: steps,"),
    ("model.name=cn", "model.name: unknown model 'cn'; did you mean 'cnn'? "
        "(known: cnn, conformer, conv_bilstm, detector, mlp, resnet, rnn, seq2seq_rnn, seq2seq_transformer, "
        "transformer, vit)"),
    ("model.name=3", "model.name: expected text, got 3"),
    ("model.name=null", "model.name: expected text, got nothing"),
    ("optimizer.name=adm", "optimizer.name: unknown optimizer 'adm'; did you mean 'adam'?"),
    ("optimizer.name=dpsgd", "optimizer.name: dpsgd cannot be used"),
    ("optimizer.schedule.name=cosin", "optimizer.schedule.name: unknown schedule 'cosin'; did you mean 'cosine'?"),
    ("task.loss.name=hubr", "task.loss.name: unknown loss 'hubr'; did you mean 'huber'?"),
    ("task.loss={}", "task.loss.name: required key is missing (one of softmax_cross_entropy,"),
    ("task.name=clasify", "task.name: expected 'classify', 'multilabel', 'regress', 'language', 'translate', "
     "'detect' or 'transcribe', got 'clasify'; did you mean 'classify'?"),
    ("precision.policy=fp16", "got 'fp16'; write float16"),
    ("precision.policy=bf16", "got 'bf16'; write bfloat16"),
    ("run.seed=true", "run.seed: expected a whole number, got true"),
    ("run.seed='7'", "run.seed: expected a whole number, got '7'; remove the quotes"),
    ("run.seed=1.5", "run.seed: expected a whole number, got 1.5"),
    ("run.seed=x", "run.seed: expected a whole number, got 'x'"),
    ("run.seed=-1", "run.seed: expected a number of at least 0, got -1"),
    ("run.epochs=1e1", "run.epochs: expected a whole number, got 10.0; write 10"),
    ("run.epochs=0", "run.epochs: expected a number above 0, got 0"),
    ("run.epochs=99999999999", "run.epochs: expected a number of at most 2147483647, got 99999999999"),
    ("run.ema_decay=1", "run.ema_decay: expected a number below 1 or a list, got 1"),
    ("data.shuffle=1", "data.shuffle: expected true or false, got 1"),
    ("data.shuffle=yes", "data.shuffle: expected true or false, got 'yes'; write true"),
    ("data.batch_size=0", "data.batch_size: expected a number above 0, got 0"),
    ("data.batch_size=-3", "data.batch_size: expected a number above 0, got -3"),
    ("data.batch_size=1e400", "data.batch_size: expected a whole number, got inf"),
    ("optimizer.lr=true", "optimizer.lr: expected a number, got true"),
    ("optimizer.lr=.nan", "optimizer.lr: expected a finite number, got nan"),
    ("optimizer.lr=-1e-3", "optimizer.lr: expected a number above 0, got -0.001"),
    ("optimizer.b1=1.5", "optimizer.b1: expected a number below 1, got 1.5"),
    ("optimizer.groups.0.lr_scal=1", "optimizer.groups.0.lr_scal: unknown key; did you mean 'lr_scale'?"),
    ("optimizer.groups=3", "optimizer.groups: expected a list, got 3"),
    ("optimizer.groups=[{}]", "optimizer.groups.0.match: required key is missing"),
    ("optimizer.grad_clip=[1]", "optimizer.grad_clip: expected a mapping of keys to values, got a list"),
    ("optimizer.schedule=null", "optimizer.schedule: expected a mapping of keys to values, got nothing; "
     "remove the key to use the default"),
    ("model.hidden=3", "model.hidden: expected a list, got 3"),
    ("model.hidden=[1, 0]", "model.hidden.1: expected a number above 0, got 0"),
    ("model.hidden=[true]", "model.hidden.0: expected a whole number, got true"),
    ("model.hidden.\u00b2=1", "model.hidden: expected a list, got a mapping"),
    ("model.channels=[]", "model.channels: expected at least 1 items, got a list"),
    ("model.activation=rely", "did you mean 'relu'?"),
    ("data={name: coco, train: a.json, test: 0.2}", "data.test: expected text, got 0.2; name a file or a folder, since "
                                                    "here only data.validation takes a fraction"),
    ("model=mlp", "model: expected a mapping of keys to values, got 'mlp'; the key for it is 'model.name'"),
    ("model=mpl", "model: expected a mapping of keys to values, got 'mpl'"),
    ("parallel.mesh=fsdp=4", "parallel.mesh: expected a mapping of keys to values, got 'fsdp=4'; write "
     "parallel.mesh.fsdp=4 as an override, {fsdp: 4} in a file"),
    ("precision=bfloat16", "precision: expected a mapping of keys to values, got 'bfloat16'; the key for it is "
                           "'precision.policy'"),
    ("model=3", "model: expected a mapping of keys to values, got 3"),
    ("model=null", "model: expected a mapping of keys to values, got nothing"),
    ("run={1: 2}", "run.1: a key must be text, got 1"),
    ("health=null", "health: expected a mapping of keys to values, got nothing; remove the key to use the default"),
    ("data.augment=3", "data.augment: expected a list, got 3"),
    ("data.augment=[crop]", "data.augment.0: expected a mapping of keys to values, got 'crop'"),
    ("data.augment=[{pad: 1}]", "data.augment.0.name: required key is missing (one of crop, flip,"),
    ("data.augment=[{name: mixpu}]", "data.augment.0.name: unknown augment 'mixpu'; did you mean 'mixup'?"),
    ("data.augment=[{name: color}]", "data.augment.0.name: unknown augment 'color'; did you mean 'colour'?"),
    ("data.augment=[{name: flip}, {name: crop}]", "data.augment.1.pad: required key is missing"),
    ("data.augment=[{name: crop, pda: 1, pad: 1}]", "data.augment.0.pda: unknown key; did you mean 'pad'?"),
    ("data.augment=[{name: flip, vertical: 2}]", "data.augment.0.vertical: expected a number of at most 1, got 2"),
    ("data.augment=[{name: affine}]", "data.augment.0: affine changes nothing unless one of its strengths is above 0; "
     "give degrees, shift or scale"),
    ("checkpoint.best=''", "checkpoint.best"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "sentence"), TABLE, ids=[override for override, _ in TABLE])
def test_one_problem_one_sentence(small, override, sentence):
    with pytest.raises(ConfigError) as caught:
        load(small, [override])
    assert len(caught.value.problems) == 1
    line = caught.value.problems[0]
    origin = f"override {override!r}: "
    assert line.startswith(origin)
    assert sentence in line.removeprefix(origin)
    assert "\n" not in line


def test_everything_wrong_is_said_at_once_with_file_and_line(small, tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "task: {name: classify}\ndata:\n  name: digits\n  batch_size: ten\n  shufle: true\n"
        "model:\n  name: mlp\n  hidden:\n    - 64\n    - 0\noptimizer: {lr: 1e-3}\nhealh: {}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load("bad.yaml", ["run.seed=x", "nonsense"])
    assert caught.value.problems == [
        "override 'nonsense': expected key=value, such as optimizer.lr=3e-4",
        "bad.yaml:4: data.batch_size: expected a whole number, got 'ten'",
        "bad.yaml:5: data.shufle: unknown key; did you mean 'shuffle'?",
        "bad.yaml:10: model.hidden.1: expected a number above 0, got 0",
        caught.value.problems[4],
        "override 'run.seed=x': run.seed: expected a whole number, got 'x'",
        "bad.yaml:12: healh: unknown key; did you mean 'health'?",
    ]
    assert caught.value.problems[4].startswith("bad.yaml:11: optimizer.name: required key is missing (one of ")


def test_missing_sections(tmp_path):
    (tmp_path / "bad.yaml").write_text("task: {name: classify}\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "bad.yaml")
    lines = [line.removeprefix(f"{tmp_path}/bad.yaml:1: ") for line in caught.value.problems]
    wanted = "data: required section is missing; write 'data: {name: ...}' (one of digits, reviews, "
    assert lines[0].startswith(wanted)
    assert lines[3] == "run: required section is missing; write 'run: {epochs: 10}' or 'run: {steps: 1000}'"
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        (1e-3, "0.001"),
        ("x" * 99, "'" + "x" * 56 + "..."),
        ({}, "a mapping"),
        ((), "a list"),
    ],
)
def test_shown(value, text):
    assert shown(value) == text
