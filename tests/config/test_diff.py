import pytest

from jaxprop.config.build import build
from jaxprop.config.diff import between_processes, diff, mathematical

COSINE = {"name": "sgd", "lr": 0.1, "schedule": {"name": "cosine"}}
PIECES = {"name": "piecewise", "boundaries": [10], "scales": [0.1]}
DECAY = {"name": "exponential", "decay_rate": 0.5}

TABLE = [
    # changes, the line of the difference, whether it alters the mathematics
    ({}, None, False),
    ({"sinks": {"tensorboard": True}}, "sinks.tensorboard: false -> true", False),
    ({"checkpoint": {"keep": 5}}, "checkpoint.keep: 2 -> 5", False),
    ({"run": {"epochs": 1, "log_every": 10}}, "run.log_every: 50 -> 10", False),
    ({"run": {"epochs": 1, "eval_every": 10}}, "run.eval_every: (not set) -> 10", False),
    ({"run": {"epochs": 1, "eval_batches": 1}}, "run.eval_batches: (not set) -> 1", False),
    ({"data": {"name": "digits", "prefetch": 0}}, "data.prefetch: 2 -> 0", False),
    ({"data": {"name": "digits", "eval_batch_size": 9}}, "data.eval_batch_size: (not set) -> 9", False),
    ({"run": {"epochs": 1, "remat": "full"}}, 'run.remat: "none" -> "full"', False),
    ({"run": {"epochs": 1, "vocabulary_chunks": "none"}}, 'run.vocabulary_chunks: "auto" -> "none"', False),
    ({"run": {"epochs": 1, "scan_layers": 12}}, 'run.scan_layers: "auto" -> 12', False),
    ({"run": {"epochs": 3}}, "run.epochs: 1 -> 3", False),
    ({"run": {"steps": 3}}, "run.epochs: 1 -> (not set)", False),
    ({"health": {"on_alert": ["clip", "stop"]}}, 'health.on_alert: "log" -> ["clip", "stop"]', False),
    ({"health": {"every": 5}}, 'health.every: "auto" -> 5', False),
    ({"health": {"rare_every": 5}}, 'health.rare_every: "auto" -> 5', False),
    ({"health": {"budget": 0.5}}, "health.budget: 0.01 -> 0.5", False),
    ({"health": {"taps": False}}, "health.taps: true -> false", False),
    ({"health": {"watch": False}}, "health.watch: true -> false", False),
    ({"health": {"tries": 5}}, "health.tries: 3 -> 5", False),
    ({"health": {"curvature": True}}, "health.curvature: false -> true", True),
    ({"run": {"epochs": 1, "seed": 1}}, "run.seed: 0 -> 1", True),
    ({"run": {"epochs": 1, "accumulate": 2}}, "run.accumulate: 1 -> 2", True),
    ({"data": {"name": "digits", "batch_size": 32}}, "data.batch_size: 64 -> 32", True),
    ({"optimizer": {"name": "sgd", "lr": 0.2}}, "optimizer.lr: 0.1 -> 0.2", True),
    ({"optimizer": COSINE}, 'optimizer.schedule.name: "constant" -> "cosine"', True),
    ({"model": {"name": "mlp", "hidden": [128, 64]}}, "model.hidden.1: 128 -> 64", True),
    ({"model": {"name": "mlp", "hidden": [128]}}, "model.hidden: [128, 128] -> [128]", True),
    ({"precision": {"policy": "bfloat16"}}, 'precision.policy: "float32" -> "bfloat16"', True),
]


@pytest.mark.parametrize(("changes", "line", "alters"), TABLE, ids=[str(row[1]) for row in TABLE])
def test_what_changed_and_whether_it_matters(sections, changes, line, alters):
    old, new = build(sections), build(sections | changes)
    lines = [str(change) for change in diff(old, new)]
    assert lines[:1] == ([line] if line else [])
    assert bool(mathematical(old, new)) == alters


LONGER = [
    # schedule before and after, length before and after, whether the run can be made longer
    ({"name": "cosine", "steps": 40}, {"name": "cosine", "steps": 40}, {"steps": 40}, {"steps": 60}, True),
    ({"name": "cosine"}, {"name": "cosine", "steps": 40}, {"steps": 40}, {"steps": 60}, True),
    ({"name": "cosine"}, {"name": "cosine", "steps": 46}, {"epochs": 2}, {"epochs": 3}, True),  # 23 steps an epoch
    ({"name": "cosine"}, {"name": "cosine"}, {"epochs": 2}, {"steps": 46}, True),
    ({"name": "cosine"}, {"name": "cosine", "steps": 60}, {"steps": 40}, {"steps": 60}, False),
    ({"name": "cosine", "steps": 40}, {"name": "linear", "steps": 40}, {"steps": 40}, {"steps": 60}, False),
    (PIECES, PIECES, {"steps": 40}, {"steps": 60}, True),
    (PIECES, {**PIECES, "scales": [0.2]}, {"steps": 40}, {"steps": 60}, False),
    (DECAY, DECAY, {"steps": 40}, {"steps": 60}, False),
    ({**DECAY, "decay_steps": 10}, {**DECAY, "decay_steps": 10}, {"steps": 40}, {"steps": 60}, True),
    (DECAY, {**DECAY, "decay_steps": 40}, {"steps": 40}, {"steps": 60}, True),
]


@pytest.mark.parametrize(("before", "after", "length", "longer", "allowed"), LONGER)
def test_a_run_is_made_longer_where_no_rate_changes(sections, before, after, length, longer, allowed):
    old, new = (
        build(sections | {"optimizer": {"name": "sgd", "lr": 0.1, "schedule": schedule}, "run": run})
        for schedule, run in ((before, length), (after, longer))
    )
    assert (mathematical(old, new) == []) == allowed


def test_the_length_that_only_a_finished_run_knows(sections):
    sections |= {"data": {"name": "arrays", "train": "a.npz"}, "run": {"epochs": 2}}
    old = build(sections | {"optimizer": COSINE})
    fixed = {"optimizer": {**COSINE, "schedule": {"name": "cosine", "steps": 40}}, "run": {"epochs": 3}}
    assert mathematical(old, build(sections | fixed)) != []
    assert mathematical(old, build(sections | fixed), steps=40) == []
    assert mathematical(old, build(sections | fixed), steps=50) != []


@pytest.mark.parametrize("length", [{"epochs": 3}, {"steps": 30}])
def test_the_length_matters_where_the_schedule_depends_on_the_step(sections, length):
    old, new = build(sections | {"optimizer": COSINE}), build(sections | {"optimizer": COSINE, "run": length})
    assert mathematical(old, new) == diff(old, new) != []


def test_another_optimizer_lists_its_arguments(sections):
    adam = {"optimizer": {"name": "adam", "lr": 0.1}}
    lines = [str(change) for change in mathematical(build(sections), build(sections | adam))]
    assert lines[0] == 'optimizer.name: "sgd" -> "adam"'
    assert "optimizer.b1: (not set) -> 0.9" in lines


@pytest.mark.parametrize(
    ("key", "old", "new", "alters"),
    [
        ("class", "a/net.py:Net", "b/net.py:Net", False),
        ("class", "a/net.py:Net", "a/other.py:Net", True),
        ("class", "a/net.py:Net", "a/net.py:Other", True),
        ("class", "mine.net:Net", "mine.other:Net", True),
        ("class_sha256", "0" * 64, "1" * 64, False),
        ("width", 1, 2, True),
    ],
)
def test_where_a_file_of_ones_own_lies_does_not_matter_but_what_it_is_called(sections, key, old, new, alters):
    model = {"class": "/net.py:Net", "class_sha256": "0" * 64, "width": 1}
    before, after = (build(sections | {"model": model | {key: value}}) for value in (old, new))
    assert len(diff(before, after)) == 1
    assert bool(mathematical(before, after)) == alters


def test_further_metrics_do_not_matter(sections):
    metrics = {"name": "classify", "metrics": {"f1": {"class": "m.py:f1"}}}
    assert mathematical(build(sections), build(sections | {"task": metrics})) == []


IMAGES = {"name": "images", "train": "a", "validation": 0.1}
MIXED = {"name": "mixture", "sources": [IMAGES, IMAGES | {"train": "b"}], "weights": [1, 2]}


@pytest.mark.parametrize(
    ("old", "new", "alters"),
    [
        (IMAGES, IMAGES | {"train": "b"}, False),  # the fingerprint decides
        (IMAGES, IMAGES | {"validation": 0.2}, True),
        (IMAGES, IMAGES | {"validation": "b"}, True),
        (IMAGES | {"validation": "a"}, IMAGES | {"validation": "b"}, False),
        (IMAGES, IMAGES | {"engine": "grain", "workers": 4, "cache_mib": 0}, False),
        (IMAGES, IMAGES | {"size": [8, 8]}, True),
        (MIXED, MIXED | {"weights": [2, 1]}, False),
        (MIXED, MIXED | {"weights": [{"after": 0, "weights": [2, 1]}]}, False),
        (MIXED, MIXED | {"sources": [IMAGES | {"train": "c"}, IMAGES | {"train": "b"}]}, False),
        (MIXED, MIXED | {"sources": [IMAGES | {"channels": 1}, IMAGES | {"train": "b"}]}, True),
    ],
)
def test_what_of_the_data_alters_a_run(sections, old, new, alters):
    before, after = build(sections | {"data": old}), build(sections | {"data": new})
    assert diff(before, after)
    assert bool(mathematical(before, after)) == alters


BPE = {"train": "bpe", "vocabulary": 300}


@pytest.mark.parametrize(
    ("old", "new", "alters"),
    [
        ("bytes", "bytes", False),
        ("here/tokenizer.json", "there/tokenizer.json", False),
        ("bytes", "tokenizer.json", True),
        ("bytes", BPE, True),
        (BPE, BPE | {"vocabulary": 301}, True),
        (BPE, "tokenizer.json", True),
    ],
)
def test_a_tokenizer_may_be_moved_and_not_be_another(sections, old, new, alters):
    def config(tokenizer):
        data = {"name": "text", "train": "book.txt", "tokenizer": tokenizer}
        return build(sections | {"task": {"name": "language"}, "data": data, "model": {"name": "rnn"}})

    assert bool(mathematical(config(old), config(new))) == alters


BETWEEN = [
    # of process 0, of another, the lines of what may not differ
    ({"run": {"steps": 1}}, {"run": {"steps": 2}}, ["run.steps: 1 -> 2"]),
    ({"run": {"timeout": 1}, "sinks": {}}, {"run": {}, "sinks": {"jsonl": True}}, []),
    ({"data": {"train": "/a/x.npz", "seed": 1}}, {"data": {"train": "/b/x.npz", "seed": 2}}, ["data.seed: 1 -> 2"]),
    (
        {"data": {"sources": [{"train": "/a/x", "label": "y"}]}},
        {"data": {"sources": [{"train": "/b/x", "label": "z"}]}},
        ['data.sources.0.label: "y" -> "z"'],
    ),
    (
        {"model": {"class": "/a/net.py:Net", "class_sha256": "f0"}},
        {"model": {"class": "/b/net.py:Net", "class_sha256": "f1"}},
        ['model.class_sha256: "f0" -> "f1"'],
    ),
    ({"checkpoint": {"every": 5}}, {"checkpoint": {"every": 6}}, ["checkpoint.every: 5 -> 6"]),
]


@pytest.mark.parametrize(("first", "other", "lines"), BETWEEN)
def test_what_processes_may_not_have_different(first, other, lines):
    assert [str(change) for change in between_processes(first, other)] == lines
    assert between_processes(other, other) == []
