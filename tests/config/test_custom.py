"""Code of the user's own in a configuration: which file is meant, and that a run's may not be run."""

import pytest

from jaxprop.config.build import build
from jaxprop.config.custom import MARKS, custom_sections, is_of_run, replace_sections
from jaxprop.config.dump import dump, to_builtins
from jaxprop.config.load import load
from jaxprop.config.tasks import best_mode
from jaxprop.errors import ConfigError
from jaxprop.run.stopping import watched

YAML = """\
task: {name: classify, loss: {class: nets/loss.py:focal, gamma: 2}, metrics: {f1: {class: mine.metrics:f1}}}
data: {class: data.py:make, path: x, batch_size: 8}
model: {class: net.py:Net, width: 64}
optimizer: {class: optim.py:make, lr: 0.1}
run: {steps: 1}
"""
PATHS = [("model",), ("data",), ("optimizer",), ("task", "loss"), ("task", "metrics", "f1")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the YAML; the working directory is another one."""
    monkeypatch.chdir((tmp_path / "here").mkdir() or tmp_path / "here")
    (tmp_path / "mine.yaml").write_text(YAML)
    return tmp_path


def permitted(config):
    return [section.permitted for section in custom_sections(config).values()]


def test_files_are_relative_to_the_config_that_names_them(folder):
    sections = custom_sections(load(folder / "mine.yaml").config)
    assert list(sections) == PATHS
    assert [section.target.where for section in sections.values()] == [
        *(str(folder / name) for name in ("net.py", "data.py", "optim.py", "nets/loss.py")),
        "mine.metrics",
    ]
    assert all(section.permitted for section in sections.values())


def test_files_of_an_override_are_relative_to_the_working_directory(folder):
    config = load(folder / "mine.yaml", ["model.class=other.py:Net", "task.loss={class: ~/l.py:x}"]).config
    assert config.model.target.where == str(folder / "here" / "other.py")
    assert config.model.arguments() == {"width": 64}
    assert config.task.loss.target.where.endswith("/l.py")
    assert "~" not in config.task.loss.target.where


def test_files_of_a_base_are_relative_to_the_base(folder, monkeypatch):
    monkeypatch.chdir(folder)  # a base lies beside the config or in the working directory
    (folder / "here" / "over.yaml").write_text("base: ../mine.yaml\nmodel: {width: 3}\noptimizer: {class: o.py:x}\n")
    config = load("here/over.yaml").config
    assert config.model.target.where.endswith("/net.py")
    assert config.optimizer.target.where == str(folder / "here" / "o.py")
    assert config.optimizer.lr == 0.1


def test_what_a_run_has_stored_is_the_same_and_runs_nothing(folder):
    config = load(folder / "mine.yaml").config
    (folder / "stored.yaml").write_text(dump(config))
    assert load(folder / "stored.yaml").config == config
    assert build(to_builtins(config)) == config
    assert permitted(build(to_builtins(config))) == [False] * 5
    assert permitted(config.model_validate(to_builtins(config))) == [False] * 5
    assert permitted(load(folder / "stored.yaml", stored=True).config) == [False] * 5


def test_the_optimizer_of_a_group_is_such_a_section_too(folder):
    group = "groups: [{match: a, freeze: true}, {match: b, optimizer: {class: own.py:make, lr: 0.2}}]"
    (folder / "mine.yaml").write_text(YAML.replace("lr: 0.1}", f"lr: 0.1, {group}}}"))
    config = load(folder / "mine.yaml").config
    path = ("optimizer", "groups", 1, "optimizer")
    section = custom_sections(config)[path]
    assert (section.target.where, section.permitted) == (str(folder / "own.py"), True)
    (folder / "stored.yaml").write_text(dump(config))
    assert not custom_sections(load(folder / "stored.yaml", stored=True).config)[path].permitted
    other = section.model_copy(update={"lr": 0.3})
    assert replace_sections(config, {path: other}).optimizer.groups[1].optimizer.lr == 0.3


@pytest.mark.parametrize("mark", MARKS)
def test_the_config_of_a_run_s_folder_runs_nothing(folder, mark):
    run = folder / "runs" / "x"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(YAML)
    assert not is_of_run(run / "config.yaml")
    (run / mark).mkdir()
    assert permitted(load(run / "config.yaml").config) == [False] * 5
    (folder / "over.yaml").write_text("base: runs/x/config.yaml\nmodel: {class: net.py:Net}\n")
    assert permitted(load(folder / "over.yaml").config) == [True, False, False, False, False]


def test_a_copy_of_a_run_s_config_runs_nothing(folder):
    (folder / "copy.yaml").write_text(YAML.replace("width: 64", f"width: 64, class_sha256: {'ab' * 32}"))
    config = load(folder / "copy.yaml").config
    assert permitted(config) == [False, True, True, True, True]
    assert load(folder / "copy.yaml", ["model.class=net.py:Net"]).config.model.permitted
    assert config.model.arguments() == {"width": 64}


def test_code_that_is_repeated_may_run_and_takes_the_place_of_the_stored_file(folder):
    stored = to_builtins(load(folder / "mine.yaml").config)
    code = ["net.py", "../loss.py", "mine.metrics"]
    config = build(stored, code=code)
    assert permitted(config) == [True, False, False, True, True]
    assert config.model.target.where == str(folder / "here" / "net.py")
    assert config.task.loss.target.where == str(folder / "here" / ".." / "loss.py")
    assert permitted(build(stored, code=["mine/net.py", "metrics", "mine.metrics.py"])) == [True] + [False] * 4


def test_code_that_no_section_names(folder):
    with pytest.raises(ConfigError, match=r"--code nett.py: .*mine.yaml does not name it; did you mean 'net.py'\?"):
        load(folder / "mine.yaml", code=["nett.py"])
    with pytest.raises(ConfigError, match=r"--code a.py: .* does not name it \(it names no code\)"):
        load("digits_mlp", code=["a.py"])


def test_sections_are_replaced_at_their_paths(folder):
    config = load(folder / "mine.yaml").config
    f1 = config.task.metrics["f1"]
    changed = replace_sections(config, {PATHS[-1]: f1.model_copy(update={"class_sha256": "0" * 64})})
    assert changed.task.metrics["f1"].class_sha256 == "0" * 64
    assert changed.task.metrics["f1"].permitted
    assert config.task.metrics["f1"].class_sha256 is None


PROBLEMS = [
    ("model: {class: net.py:Net, width: 64}", "model: {class: net.py:Net, name: mlp}", "3: model: name and class are"),
    ("model: {class: net.py:Net, width: 64}", "model: {name: mpl, class: net.py:Net}", "3: model: name and class are"),
    ("model: {class: net.py:Net, width: 64}", "model: {width: 64}", "3: model.name: required key is missing (one of"),
    ("class: net.py:Net", "class: net.py", "3: model.class: expected FILE.py:NAME or package.module:NAME"),
    ("class: net.py:Net", "class: 3", "3: model.class: expected text, got 3"),
    ("{class: optim.py:make, lr: 0.1}", "{lr: 0.1}", "4: optimizer.name: required key is missing"),
    ("{class: optim.py:make, lr: 0.1}", "{class: o.py:make, name: sgd}", "4: optimizer: name and class are both"),
    ("lr: 0.1", "lr: -1", "4: optimizer.lr: expected a number of at least 0, got -1"),
    ("lr: 0.1", "schedule: {name: cosine}", "4: optimizer: the schedule cosine shapes a learning rate"),
    ("lr: 0.1", "groups: [{match: a, weight_decay: 1}]", "4: optimizer.groups: an optimizer of your own takes weight"),
    ("batch_size: 8", "batch_size: 0", "2: data.batch_size: expected a number above 0, got 0"),
    ("{f1: {class: mine.metrics:f1}}", "{f1: {k: 2}}", "1: task.metrics.f1.class: required key is missing"),
    ("{f1: {class: mine.metrics:f1}}", "{f1: 3}", "1: task.metrics.f1: expected a mapping of keys to values, got 3"),
    ("{f1: ", "{accuracy: ", "1: task.metrics.accuracy: the task classify has a metric of this name"),
    ("run: {steps: 1}", "run: {steps: 1, remat: full}", "5: run.remat: remat is for the models of jaxprop"),
]


@pytest.mark.parametrize(("old", "new", "line"), PROBLEMS)
def test_mistakes_of_such_a_section(folder, old, new, line):
    assert old in YAML
    (folder / "mine.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load(folder / "mine.yaml")
    assert caught.value.problems[0].startswith(f"{folder / 'mine.yaml'}:{line}"), caught.value.problems


def test_a_key_that_is_missing_says_that_code_of_ones_own_may_stand_there(folder):
    (folder / "mine.yaml").write_text(YAML.replace("{class: net.py:Net, width: 64}", "{}"))
    with pytest.raises(ConfigError, match=r"one of mlp, cnn, .*; or class, for code of your own"):
        load(folder / "mine.yaml")


def test_only_its_author_knows_whether_more_of_a_metric_is_better(folder):
    with pytest.raises(ConfigError, match=r"whether a larger f1 is better only you know; add checkpoint\.mode: max"):
        load(folder / "mine.yaml", ["checkpoint.best=f1"])
    config = load(folder / "mine.yaml", ["checkpoint.best=f1", "checkpoint.mode=max", "run.stop={patience: 3}"]).config
    assert watched(config) == ("f1", -1)
    with pytest.raises(ConfigError, match=r"whether a larger f1 is better only you know; add run\.stop\.mode: max, or"):
        load(folder / "mine.yaml", ["run.stop={metric: f1, patience: 3}"])
    config = load(folder / "mine.yaml", ["run.stop={metric: f1, patience: 3, mode: max}"]).config
    assert (watched(config), best_mode(config)) == (("f1", -1), "min")
