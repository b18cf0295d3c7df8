import json
import sys
import types

import pytest

from jaxprop.config.schema.run import Sinks
from jaxprop.errors import RunFolderError, UsageError
from jaxprop.sinks import check_trackers, open_sinks
from jaxprop.sinks.trackers import FILE, TRACKERS
from tests.sinks.fakes import KINDS

RECORD = {"step": 5, "split": "train", "loss": 0.5}


@pytest.fixture(params=list(TRACKERS))
def name(request):
    return request.param


def install(monkeypatch, name, seen, **given):
    for key, module in KINDS[name](seen, **given).items():
        monkeypatch.setitem(sys.modules, key, module)


def opened(name, folder, **given):
    return open_sinks(Sinks(**{name: True}), folder, total_steps=10, config={"run": {"steps": 10}}, **given)


@pytest.mark.parametrize("module", [None, types.ModuleType("a folder of that name")])
def test_one_that_is_not_installed_is_refused(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(UsageError) as e:
        check_trackers(Sinks(**{name: True}))
    said = f"sinks.{name} needs the package '{name}', which is not installed; install it with: pip install {name}"
    assert (str(e.value), e.value.exit_code) == (said, 2)


def test_one_that_is_broken_is_refused(monkeypatch, name):
    class Broken(types.ModuleType):
        def __getattr__(self, attribute):
            raise RuntimeError("another version of protobuf is needed")

    monkeypatch.setitem(sys.modules, name, Broken(name))
    with pytest.raises(UsageError, match=rf"^sinks.{name}: {name} has not begun .*another version of protobuf"):
        check_trackers(Sinks(**{name: True}))


def test_none_is_imported_unless_asked_for(monkeypatch):
    for one in TRACKERS:
        monkeypatch.setitem(sys.modules, one, None)
    check_trackers(Sinks())


def test_a_run_is_told_of_and_its_records_go_to_both(monkeypatch, tmp_path, capsys, name):
    seen = []
    install(monkeypatch, name, seen)
    sink = opened(name, tmp_path)
    sink.write(RECORD)
    sink.alert({"step": 5, "severity": "act", "kind": "spike", "message": "the loss"})
    sink.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == [name, "step 5/10  train  loss 0.5", "step 5  act"]
    assert sum("spike" in str(call) for call in seen) == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert list(json.loads((tmp_path / FILE).read_text())) == [name]


@pytest.mark.parametrize("known", ["[", "[]", '{"wandb": 3, "trackio": {"name": 7}, "mlflow": {"run_id": []}}'])
def test_a_damaged_file_is_a_new_run(monkeypatch, tmp_path, name, known):
    seen = []
    install(monkeypatch, name, seen)
    (tmp_path / FILE).write_text(known)
    opened(name, tmp_path, start_step=5, quiet=True).close()
    assert json.loads((tmp_path / FILE).read_text())[name]


def test_a_failure_is_told_once_even_if_nothing_else_is(monkeypatch, tmp_path, capsys):
    for given in ({}, {"quiet": True}, {"brief": True}):
        install(monkeypatch, "trackio", [], fail_at=5)
        sink = opened("trackio", tmp_path, **given)
        for _ in range(3):
            sink.write(RECORD)
        sink.close()
        err = capsys.readouterr().err
        assert err.count("warning: sinks.trackio: ConnectionError: the disk is gone; the run goes on without it") == 1


def test_the_files_are_kept_where_a_tracker_refuses(monkeypatch, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')

    def init(**_):
        raise OSError("no space")

    install(monkeypatch, "trackio", [])
    monkeypatch.setattr(sys.modules["trackio"], "init", init)
    with pytest.raises(UsageError, match=r"sinks.trackio: .*no space.*sinks.trackio=false"):
        opened("trackio", tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_a_link_in_the_place_of_the_file(monkeypatch, tmp_path):
    install(monkeypatch, "trackio", [])
    (tmp_path / "other").write_text("mine")
    (tmp_path / FILE).symlink_to(tmp_path / "other")
    with pytest.raises(RunFolderError, match=r"tracker\.json cannot be written"):
        opened("trackio", tmp_path)
    assert (tmp_path / "other").read_text() == "mine"
