import pytest

from jaxprop.config.build import build
from jaxprop.config.checks import known_steps
from jaxprop.errors import ConfigError

TEXT = {"task": {"name": "language"}, "data": {"name": "stdlib_text"}, "model": {"name": "transformer"}}
ARRAYS = {"data": {"name": "arrays", "train": "a.npz"}}
BOTH = {"data": {"name": "arrays", "train": "a.npz", "test": "b.npz"}}
WARMUP = {"name": "sgd", "lr": 0.1, "schedule": {"name": "warmup_cosine", "warmup_steps": 100}}
WSD = {"name": "sgd", "lr": 0.1, "schedule": {"name": "warmup_stable_decay", "warmup_steps": 60, "decay_steps": 60}}

ONE = {"name": "digits"}
MIXED = {"name": "mixture", "sources": [ONE, ONE]}
IMAGES = {"name": "images", "train": "photos"}
TABLE = {"data": {"name": "table", "train": "a.csv", "target": "y"}}

GOOD = [
    {},
    TABLE,
    {
        "data": {"name": "table", "train": "a.csv", "target": "y", "test": 0.2, "validation": "v.pq"},
        "run": {"steps": 4, "eval_every": 2},
    },
    {
        "data": {"name": "table", "train": "a.csv", "target": ["x", "y"], "test": "t.csv"},
        "task": {"name": "multilabel"},
    },
    TEXT,
    TEXT | {"model": {"name": "rnn"}},
    {"model": {"name": "rnn"}},
    {"model": {"name": "rnn", "bidirectional": True, "pool": "mean"}},
    {"model": {"name": "resnet", "depths": [1], "widths": [12], "norm": "group", "groups": 4}},
    {"model": {"name": "resnet", "depths": [1], "widths": [12]}},  # groups are of norm: group
    {"model": {"name": "vit", "width": 12, "heads": 3, "positions": "sincos", "pool": "mean"}},
    BOTH | {"model": {"name": "transformer", "causal": True, "kv_heads": 2, "feed_forward": "swiglu"}},
    {"model": {"name": "mlp", "embedding": 8}},
    ARRAYS,
    BOTH | {"run": {"steps": 10, "eval_every": 5}},
    {"data": {"name": "arrays", "train_inputs": "a.npy", "train_labels": "b.npy"}},
    BOTH | {"task": {"name": "regress", "loss": {"name": "huber"}}},
    BOTH | {"task": {"name": "multilabel", "loss": {"name": "sigmoid_cross_entropy"}}},
    {"checkpoint": {"best": "accuracy", "mode": "max"}},
    {"run": {"steps": 100, "steps_per_call": 10, "eval_every": 20}, "checkpoint": {"every_steps": 30}},
    {"run": {"steps": 100, "accumulate": 4}, "parallel": {"devices": 2}},
    {"optimizer": WARMUP, "run": {"steps": 101}},
    ARRAYS | {"optimizer": WARMUP, "run": {"epochs": 1}},  # the length of an epoch is not known here
    {"data": {"name": "digits", "batch_size": 1437}},
    {"data": {"name": "digits", "augment": [{"name": "crop", "pad": 1}, {"name": "mixup"}]}},
    TEXT | {"model": {"name": "transformer", "width": 15, "heads": 5, "positions": "learned"}},
    {"run": {"epochs": 1, "stop": {"patience": 3, "metric": "accuracy", "target": 0.9, "minutes": 0.5}}},
    ARRAYS | {"run": {"steps": 1, "stop": {"minutes": 2}}},
    {"health": {"on_alert": "log"}},
    {"precision": {"quantize": "qat_int8"}},
    {"precision": {"quantize": "int8"}, "gradient": {"estimator": "spsa", "samples": 4}},
    {"gradient": {"estimator": "evolution", "population": 8, "chunk": 4}, "precision": {"policy": "bfloat16"}},
    {"data": MIXED, "run": {"steps": 9, "eval_every": 3}},
    {"data": MIXED | {"weights": [1, 0.5]}},
    {"data": MIXED | {"weights": [{"after": 0, "weights": [1, 0]}, {"after": 9, "weights": [1, 1]}]}},
    {"data": IMAGES | {"size": [8, 9], "validation": 0.1}, "run": {"steps": 9, "eval_every": 3}},
    {"data": IMAGES | {"validation": "other"}, "run": {"steps": 9, "eval_every": 3}},
    {"health": {"on_alert": ["clip", "cut_lr", "rollback", "stop"]}},
    {"health": {"on_alert": ["skip", "cut_lr"], "every": 2, "rare_every": 20}},
    {"health": {"on_alert": "skip", "watch": False}},
    {"health": {"watch": False}, "checkpoint": {"enabled": False}},
]

BAD = [
    ({"gradient": {"samples": 2}}, "gradient.samples: backprop has no samples; remove this, or use forward or spsa as"),
    (
        {"gradient": {"estimator": "spsa"}, "precision": {"policy": "float16"}},
        "precision.policy: spsa takes no backward pass, which float16 scales the loss for; use bfloat16",
    ),
    (
        {"gradient": {"estimator": "forward"}, "health": {"curvature": True}},
        "health.curvature: an estimate by forward changes with its directions alone, so it shows no curvature; remove",
    ),
    (
        {"gradient": {"estimator": "spsa"}, "optimizer": {"name": "sophia", "lr": 0.1}},
        "gradient.estimator: sophia differentiates the loss itself; use another optimizer, such as adam, or backprop",
    ),
    (
        {"gradient": {"estimator": "forward"}, "precision": {"quantize": "int8"}},
        "gradient.estimator: a product in 8 bits has a rule for the backward pass alone; use spsa, or remove",
    ),
    (
        {"task": {"name": "language", "teacher": "runs/big"}, "data": {"name": "stdlib_text"}}
        | {"model": {"name": "transformer"}, "run": {"steps": 1, "vocabulary_chunks": 4}},
        "run.vocabulary_chunks: a teacher's logits are made whole; remove this or task.teacher",
    ),
    (
        {"task": {"name": "detect", "teacher": "runs/big"}, "data": {"name": "digit_scenes"}}
        | {"model": {"name": "detector"}},
        "task.teacher: the task detect is not learned from a teacher, but classify, multilabel, regress, language are; "
        "remove this",
    ),
    (
        {"precision": {"quantize": "int8"}, "health": {"curvature": True}},
        "health.curvature: a product in 8 bits is a step function, which has no curvature; remove this or "
        "precision.quantize",
    ),
    ({"data": MIXED | {"weights": [1.0, 1.0, 1.0]}}, "data.weights: expected 2 weights, one for each source, got 3"),
    ({"data": MIXED | {"weights": [0, 0]}}, "data.weights: all weights are 0"),
    ({"data": MIXED | {"weights": [{"after": 5, "weights": [1, 1]}]}}, "data.weights: expected `after: 0` first"),
    ({"data": MIXED | {"sources": [ONE, {"name": "stdlib_text"}]}}, "data.sources.1.name: stdlib_text does not fit"),
    (
        {"data": MIXED | {"sources": [ONE]}},
        "data.sources: expected 2 sources or more; write a single one as the section",
    ),
    (
        {"model": {"name": "mlp"}, "parallel": {"mesh": {"sequence": 2}}},
        "parallel.mesh.sequence: mlp is not split over tokens, as transformers are; use fsdp or data",
    ),
    ({"data": IMAGES, "run": {"steps": 9, "eval_every": 3}}, "run.eval_every: there is no split to evaluate on"),
    (
        {"data": {"name": "table", "train": "a.csv", "target": ["x", "y"]}},
        "data.target: classify has one target; name one, or set task.name: multilabel",
    ),
    ({"data": {"name": "table", "train": "a.csv", "target": []}}, "data.target: expected the name of a column"),
    (
        {"data": {"name": "table", "train": "a.csv", "target": "y", "features": ["x", "y"]}},
        "data.features: y is the target; remove it here",
    ),
    (
        {"data": {"name": "table", "train": "a.csv", "target": "y", "test": 0.5, "validation": 0.5}},
        "data.test: test and validation leave no rows to train on",
    ),
    (TABLE | {"run": {"steps": 9, "eval_every": 3}}, "run.eval_every: there is no split to evaluate on"),
    (
        {"run": {"epochs": 1, "stop": {}}},
        "run.stop: expected patience, target or minutes, as in {patience: 5}; got none",
    ),
    (
        {"run": {"epochs": 1, "stop": {"metric": "loss", "minutes": 1}}},
        "run.stop.metric: the metric of patience and target",
    ),
    (
        {"run": {"epochs": 1, "stop": {"metric": "los", "patience": 1}}},
        "unknown metric of the task classify 'los'; did you",
    ),
    (ARRAYS | {"run": {"epochs": 1, "stop": {"patience": 1}}}, "run.stop.patience: there is no split to evaluate on"),
    ({"run": {}}, "run: expected steps or epochs, such as 'run: {epochs: 10}'; got neither"),
    ({"run": {"steps": 1, "epochs": 1}}, "run.epochs: both steps and epochs are given; remove one"),
    ({"optimizer": WARMUP, "run": {"steps": 100}}, "optimizer.schedule.warmup_steps: warmup_steps is 100"),
    ({"optimizer": WARMUP, "run": {"epochs": 4}}, "but the schedule has 92 steps"),  # 4 * ceil(1437 / 64)
    ({"optimizer": WSD, "run": {"steps": 119}}, "optimizer.schedule.warmup_steps: warmup_steps + decay_steps is 120"),
    (ARRAYS | {"run": {"steps": 9, "eval_every": 3}}, "run.eval_every: there is no split to evaluate on"),
    (ARRAYS | {"run": {"steps": 9, "eval_batches": 3}}, "run.eval_batches: there is no split"),
    (ARRAYS | {"checkpoint": {"best": "loss"}}, "checkpoint.best: there is no split"),
    ({"checkpoint": {"best": "acuracy", "mode": "max"}}, "unknown metric of the task classify 'acuracy'; did you mean"),
    (
        {"checkpoint": {"best": "accuracy", "mode": "min"}},
        "checkpoint.mode: accuracy is better when larger; write 'mode: max'",
    ),
    (
        {"run": {"epochs": 1, "stop": {"metric": "accuracy", "patience": 2, "mode": "min"}}},
        "run.stop.mode: expected max, as this metric is known to be; remove it",
    ),
    ({"checkpoint": {"mode": "max"}}, "checkpoint.mode: loss is better when smaller; write 'mode: min'"),
    ({"run": {"epochs": 1, "accumulate": 3}}, "data.batch_size: expected a multiple of run.accumulate (3), got 64"),
    ({"parallel": {"devices": 3}}, "parallel.devices: a microbatch (data.batch_size = 64) cannot be divided over 3"),
    ({"run": {"steps": 9, "accumulate": 16}, "parallel": {"devices": 8}}, "(data.batch_size / run.accumulate = 4)"),
    (
        {"run": {"steps": 55, "steps_per_call": 10}},
        "run.steps: expected a multiple of run.steps_per_call (10), such as 60; got 55",
    ),
    (
        {"run": {"epochs": 5, "steps_per_call": 20}},
        "run.log_every: expected a multiple of run.steps_per_call (20), such as 60; got 50",
    ),
    ({"run": {"epochs": 5, "steps_per_call": 10, "eval_every": 5}}, "run.eval_every: expected a multiple"),
    (
        {"run": {"epochs": 5, "steps_per_call": 10}, "checkpoint": {"every_steps": 5}},
        "checkpoint.every_steps: expected a multiple",
    ),
    (
        {"data": {"name": "digits", "batch_size": 1438}},
        "data.batch_size: 1438 is larger than the data set, which has 1437 training examples",
    ),
    (TEXT | {"model": {"name": "cnn"}}, "model.name: cnn does not fit the task language; expected rnn or transformer"),
    (TEXT | {"data": {"name": "digits"}}, "data.name: digits does not fit the task language; expected stdlib_text"),
    ({"data": {"name": "stdlib_text"}}, "data.name: stdlib_text does not fit the task classify"),
    (TEXT | {"model": {"name": "vit"}}, "model.name: vit does not fit the task language; expected rnn or transformer"),
    ({"task": {"name": "classify", "loss": {"name": "huber"}}}, "task.loss.name: huber does not fit the task classify"),
    (
        TEXT | {"data": {"name": "stdlib_text", "augment": [{"name": "noise", "std": 1}]}},
        "data.augment: augmentation changes images and other numbers, but the inputs of the task language are tokens",
    ),
    ({"data": {"name": "arrays"}}, "data: expected train (one .npz), or train_inputs and train_labels"),
    ({"data": ARRAYS["data"] | {"train_inputs": "a.npy"}}, "data.train: give train (one .npz) or train_inputs"),
    ({"data": {"name": "arrays", "train_inputs": "a.npy"}}, "data.train_inputs: train_labels is missing"),
    ({"data": ARRAYS["data"] | {"test_labels": "a.npy"}}, "data.test_labels: test_inputs is missing"),
    (
        TEXT | {"model": {"name": "transformer", "width": 10, "heads": 4}},
        "model.width: expected a multiple of heads (4)",
    ),
    (TEXT | {"model": {"name": "transformer", "width": 15, "heads": 5}}, "model.width: rope rotates pairs of features"),
    ({"model": {"name": "vit", "width": 10, "heads": 4}}, "model.width: expected a multiple of heads (4), got 10"),
    (
        {"model": {"name": "vit", "width": 6, "heads": 3, "positions": "sincos"}},
        "model.width: sincos fills quarters of the features: expected a multiple of 4, got 6",
    ),
    (
        TEXT | {"model": {"name": "transformer", "kv_heads": 3}},
        "model.kv_heads: expected a divisor of heads (4), got 3",
    ),
    (
        TEXT | {"model": {"name": "transformer", "causal": False}},
        "model.causal: the task language predicts the next token, which a token must not attend to",
    ),
    (
        TEXT | {"model": {"name": "rnn", "bidirectional": True}},
        "model.bidirectional: the task language predicts the next token, which must not be read before",
    ),
    (
        {"model": {"name": "resnet", "depths": [2, 2]}},
        "model.depths: expected one number for each of the 4 widths, got 2",
    ),
    (
        {"model": {"name": "resnet", "norm": "group", "groups": 48}},
        "model.groups: expected a divisor of every width, got 48, which does not divide 64",
    ),
    ({"model": {"name": "mlp", "embedding": "onehot"}}, "model.embedding: expected 'one-hot'"),
    (
        {"health": {"on_alert": ["log", "stop"]}},
        "health.on_alert: log cannot be combined with other actions, since every alert is logged",
    ),
    (
        {"health": {"on_alert": ["skip", "clip"]}},
        "health.on_alert: skip and clip both guard against spikes of the gradient",
    ),
    ({"health": {"on_alert": ["stop", "clip"]}}, "health.on_alert: clip comes after stop, which ends the run"),
    ({"health": {"on_alert": ["clip", "clip"]}}, "health.on_alert: clip is listed twice; remove one"),
    (
        {"health": {"on_alert": "rollback"}, "checkpoint": {"enabled": False}},
        "health.on_alert: rollback needs checkpoints; remove it, or set checkpoint.enabled: true",
    ),
    (
        {"health": {"on_alert": ["clip", "cut_lr"], "watch": False}},
        "health.on_alert: cut_lr acts on alerts, but the watch is off; remove it, or set health.watch: true",
    ),
    ({"health": {"on_alert": "rolback"}}, "or a list, got 'rolback'; did you mean 'rollback'?"),
    ({"health": {"on_alert": ["clip", "halt"]}}, "health.on_alert.1: expected 'log', 'skip', 'clip', 'cut_lr'"),
    ({"health": {"on_alert": []}}, "health.on_alert: expected 'log'"),
    ({"health": {"every": "often"}}, "health.every: expected 'auto' or a whole number, got 'often'"),
    ({"health": {"rare_every": 0}}, "health.rare_every: expected 'auto' or a number above 0, got 0"),
    ({"health": {"budget": 0}}, "health.budget: expected a number above 0, got 0"),
    ({"health": {"tries": 0}}, "health.tries: expected a number above 0, got 0"),
]


@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_what_agrees(sections, changes):
    config = build(sections | changes)
    assert changes.keys() <= config.model_fields_set


@pytest.mark.parametrize(("changes", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_what_contradicts_itself(sections, changes, sentence):
    with pytest.raises(ConfigError) as caught:
        build(sections | changes)
    assert len(caught.value.problems) == 1
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"run": {"steps": 7}}, 7),
        ({"run": {"epochs": 2}}, 46),
        ({"run": {"epochs": 2}, "data": {"name": "digits", "drop_last": True}}, 44),
        (ARRAYS | {"run": {"epochs": 2}}, None),
        (ARRAYS | {"run": {"steps": 2}}, 2),
    ],
)
def test_known_steps(sections, changes, steps):
    assert known_steps(build(sections | changes)) == steps


def test_the_digits_have_as_many_as_the_checks_say():
    from jaxprop.config.checks import DIGITS_TRAIN
    from jaxprop.data.readers.digits import open_digits

    assert open_digits()["train"].length == DIGITS_TRAIN
