"""Searches: what is drawn, trained, ended early, gone on with, and shared by two folders."""

import contextlib
import gc
import json
import signal
import sqlite3
import warnings

import pytest
import yaml

from jaxprop.errors import UsageError
from jaxprop.run.swept import as_json, best_of, read_results
from jaxprop.tools.sweep import Axis, training
from jaxprop.tools.sweep.grid import Span
from jaxprop.tools.sweep.plan import drawn
from jaxprop.tools.sweep.search import Search, _study, search
from tests.tools.sweep.test_sweep import CONFIG

RATE = Span("optimizer.lr", 1e-4, 1.0, "log")
DROPOUT = Span("model.dropout", 0.01, 0.5, "lin")


@pytest.fixture(autouse=True)
def _without_leaks_of_others():
    """Optuna leaves a connection open where a storage cannot be read, and Python 3.13 warns of it in a later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return str(path)


def searched(config, folder, spans=(RATE,), axes=(), *, seeds=None, tell=lambda _line: None, fixed=(), **wanted):
    terms = {name: wanted.pop(name) for name in ("metric", "fresh", "lanes") if name in wanted}
    made = drawn(config, spans, axes, fixed, seeds)
    return search(made, Search(tuple(spans), tuple(axes), **wanted), folder, tell=tell, **terms)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_settings_are_drawn_and_ranked(config, tmp_path, sampler):
    found = searched(config, tmp_path / "s", (RATE, DROPOUT), sampler=sampler, trials=5)
    assert (len(found.ended), found.left, found.exit_code) == (5, 0, 0)
    assert found.results.keys == ("optimizer.lr", "model.dropout")
    rates = [one.setting["optimizer.lr"] for one in found.ended]
    assert len(set(rates)) == 5
    assert all(1e-4 <= rate <= 1 for rate in rates)
    means = [one.mean for one in found.ranked]
    assert means == sorted(means, reverse=True)
    assert best_of(tmp_path / "s").run.name == next(
        one.folder for one in found.ended if one.setting == found.ranked[0].setting
    )


@pytest.mark.parametrize(("metric", "direction"), [("loss", "MINIMIZE"), ("accuracy", "MAXIMIZE")])
def test_the_sampler_is_told_what_is_ranked(config, tmp_path, metric, direction):
    optuna = pytest.importorskip("optuna")
    found = searched(config, tmp_path / "s", trials=3, metric=metric)
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/s/search.db")
    study = optuna.load_study(study_name="small", storage=storage)
    assert study.direction.name == direction
    assert [trial.value for trial in study.trials] == [one.metrics[metric] for one in found.ended]
    assert study.best_params["optimizer.lr"] == pytest.approx(found.ranked[0].setting["optimizer.lr"], rel=1e-5)
    storage.remove_session()
    storage.engine.dispose()


def test_lists_whole_numbers_and_seeds(config, tmp_path):
    spans = (RATE, Span("data.batch_size", 16, 64, "int"))
    axes = (Axis("model.hidden", ([8], [4, 4])),)
    found = searched(config, tmp_path / "s", spans, axes, trials=3, seeds=2, sampler="random")
    assert [one.lost for one in found.ranked] == [0, 0, 0]
    assert all(len(one.values) == 2 for one in found.ranked)
    sizes = [one.setting["data.batch_size"] for one in found.ended]
    assert all(isinstance(size, int) and 16 <= size <= 64 for size in sizes)


def test_a_search_goes_on_where_it_was(config, tmp_path):
    first = searched(config, tmp_path / "s", trials=2)
    told = []
    more = searched(config, tmp_path / "s", trials=4, tell=told.append)
    assert [one.folder for one in more.ended[:2]] == [one.folder for one in first.ended]
    assert [line[:5] for line in told if line.startswith("[")] == ["[3/4]", "[4/4]"]
    assert len(read_results(tmp_path / "s").runs) == 4
    same = searched(config, tmp_path / "s", trials=4, tell=told.append)
    assert same.ranked == more.ranked
    with pytest.raises(UsageError, match="holds another sweep, over the keys"):
        searched(config, tmp_path / "s", (DROPOUT,), trials=4)
    assert len(searched(config, tmp_path / "s", (DROPOUT,), trials=1, fresh=True).ended) == 1


def test_a_search_does_not_go_on_with_another_model(config, tmp_path):
    searched(config, tmp_path / "s", trials=1)
    before = (tmp_path / "s" / "results.json").read_bytes()
    other = tmp_path / "small.yaml"
    other.write_text(yaml.safe_dump({**CONFIG, "model": {"name": "mlp", "hidden": [4]}}))
    with pytest.raises(UsageError, match=r"(?s)another configuration.*model.hidden.0: 8 -> 4.*--fresh"):
        searched(str(other), tmp_path / "s", trials=2)
    assert (tmp_path / "s" / "results.json").read_bytes() == before
    assert len(searched(str(other), tmp_path / "s", trials=2, fresh=True).ended) == 2


def test_what_was_interrupted_is_asked_for_again(config, tmp_path, monkeypatch):
    real, ran = training.train, []

    def interrupted(*args, **options):
        ran.append(args[1].name)
        if len(ran) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **options)

    monkeypatch.setattr(training, "train", interrupted)
    told = []
    first = searched(config, tmp_path / "s", trials=4, tell=told.append)
    assert [one.status for one in first.ended] == ["completed", "interrupted"]
    assert (first.exit_code, len(first.ranked), first.left) == (75, 1, 3)
    assert told[-1].startswith("[2/4] ")
    assert as_json(read_results(tmp_path / "s"))["runs"] == as_json(first.results)["runs"]
    again = searched(config, tmp_path / "s", trials=4)
    assert (again.exit_code, len(again.ended)) == (0, 4)
    assert ran[1] == ran[2]  # from its checkpoint, or its start
    assert len(set(ran)) == 4


def test_runs_that_are_behind_end_early(config, tmp_path):
    fixed = ["run.steps=60", "run.eval_every=10"]
    found = searched(config, tmp_path / "s", trials=8, halving=True, fixed=fixed, sampler="random")
    halved = [one for one in found.ended if one.status == training.HALVED]
    assert 2 <= len(halved) < 8
    assert all("ended early, since other settings are better" in one.problem for one in halved)
    assert found.left == 0
    steps = [json.loads((tmp_path / "s" / one.folder / "summary.json").read_text())["step"] for one in halved]
    assert max(steps) < 60
    assert all(one.lost == 0 for one in found.ranked)  # one that ended early is not lost, but not ranked either
    assert len(found.ranked) == 8 - len(halved)


def test_what_is_drawn_again_is_told(config, tmp_path):
    told = []
    lists = (Axis("optimizer.lr", (0.001, 0.01)),)
    found = searched(config, tmp_path / "s", (), lists, trials=4, sampler="random", tell=told.append)
    assert (len(found.ended), found.left) == (2, 0)
    assert sum("was tried before, and counts once more" in line for line in told) == 2


def test_two_folders_share_a_storage(config, tmp_path):
    storage = str(tmp_path / "both.db")
    searched(config, tmp_path / "a", trials=2, storage=storage)
    second = searched(config, tmp_path / "b", trials=5, storage=storage)
    assert len(second.ended) == 3
    here, there = (read_results(tmp_path / name).runs for name in ("a", "b"))
    assert not {one.folder for one in here} & {one.folder for one in there}
    with pytest.raises(UsageError, match=r"holds another search, whose keys is \[\"optimizer.lr\"\]"):
        searched(config, tmp_path / "c", (DROPOUT,), trials=9, storage=storage)


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_machines_that_begin_at_the_same_time_draw_different_settings(config, tmp_path, sampler):
    plan = drawn(config, (RATE, DROPOUT), (), (), None)
    wanted = Search((RATE, DROPOUT), (), sampler=sampler, trials=9, storage=str(tmp_path / "both.db"))
    studies = [_study(plan, wanted, tmp_path / name, "accuracy", "max") for name in ("a", "b")]
    settings = [tuple(study.ask().setting.values()) for _ in range(3) for study in studies]
    for study in studies:
        study.close()
    assert len(set(settings)) == 6


def test_lanes_are_drawn_together(config, tmp_path):
    found = searched(config, tmp_path / "s", trials=4, lanes=2)
    assert (len(found.ended), found.exit_code) == (4, 0)


def test_the_time_that_it_may_take(config, tmp_path):
    found = searched(config, tmp_path / "s", minutes=1e-9)
    assert (found.ended, found.left) == ([], 0)


def test_a_setting_that_diverges_is_lost_and_avoided(config, tmp_path):
    spans = (Span("optimizer.lr", 1e6, 1e9, "log"),)
    fixed = ["optimizer.name=sgd", "health.on_alert=[stop]"]
    found = searched(config, tmp_path / "s", spans, trials=2, fixed=fixed, metric="loss")
    assert [one.lost for one in found.ranked] in ([1, 1], [0, 0])
    assert len(found.ended) == 2


def test_a_storage_that_cannot_be_read_is_one_sentence(config, tmp_path):
    (tmp_path / "damaged.db").write_text("no database")
    with pytest.raises(UsageError, match=r"damaged.db: Optuna cannot use this storage \(.*not a database\)"):
        searched(config, tmp_path / "s", trials=1, storage=str(tmp_path / "damaged.db"))


def test_a_database_of_another_program_stays_as_it_is(config, tmp_path):
    storage = tmp_path / "mine.db"
    with contextlib.closing(sqlite3.connect(storage)) as database:
        database.execute("CREATE TABLE shopping (thing TEXT)")
        database.commit()
    before = storage.read_bytes()
    said = r"mine\.db is a database of another program, with the tables shopping; choose another file with --storage"
    with pytest.raises(UsageError, match=said):
        searched(config, tmp_path / "s", trials=1, storage=str(storage))
    assert storage.read_bytes() == before


def test_a_storage_of_another_version_is_one_sentence(config, tmp_path):
    storage = tmp_path / "old.db"
    searched(config, tmp_path / "s", trials=1, storage=str(storage))
    with contextlib.closing(sqlite3.connect(storage)) as held, held:
        held.execute("UPDATE version_info SET schema_version = 3")
        held.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    with pytest.raises(UsageError, match=r"old\.db: Optuna cannot use this storage .*; choose another file"):
        searched(config, tmp_path / "s2", trials=2, storage=str(storage))


MISTAKES = {
    "no end": ({}, "a search has no end by itself; say how long it goes on, with --trials 40 or --minutes 30"),
    "a sampler that is not there": ({"trials": 1, "sampler": "bayes"}, "--search: unknown way to search 'bayes'"),
    "halving with seeds": ({"trials": 1, "halving": True, "seeds": 2}, "--halving compares settings by one run each"),
    "a metric that is not there": ({"trials": 1, "metric": "acuracy"}, "unknown metric of this task 'acuracy'"),
    "lists for cmaes": (
        {"trials": 1, "sampler": "cmaes", "axes": (Axis("model.hidden", ([4], [8])),)},
        r"--search cmaes draws numbers alone, and model\.hidden has a list of values; use --search tpe",
    ),
    "nothing": ({"trials": 1, "spans": ()}, "a search needs a range to draw from"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_one_sentence(config, tmp_path, what):
    wanted, sentence = MISTAKES[what]
    with pytest.raises(UsageError, match=sentence):
        searched(config, tmp_path / "s", **wanted)


def test_both_ends_of_a_range_are_checked(config, tmp_path):
    from jaxprop.errors import ConfigError

    with pytest.raises(ConfigError, match=r"model\.dropout"):
        searched(config, tmp_path / "s", (Span("model.dropout", 0.0, 1.5, "lin"),), trials=1)


def test_without_optuna_it_is_named(config, tmp_path, monkeypatch):
    import sys

    from jaxprop.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match="pip install optuna"):
        searched(config, tmp_path / "s", trials=1)
