import importlib.util
import json
import math
import os
import sys

import pytest

from jaxprop.config.schema.run import Sinks
from jaxprop.config.schema.trackers import Mlflow
from jaxprop.errors import UsageError
from jaxprop.sinks import open_sinks
from jaxprop.sinks.mlflow import check_mlflow
from tests.sinks import fakes

installed = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None or importlib.util.find_spec("sqlalchemy") is None,
    reason="mlflow is not installed, or only mlflow-skinny, which has no local store",
)


@pytest.fixture
def fake(monkeypatch):
    def install(seen, **given):
        for name, module in fakes.mlflow(seen, **given).items():
            monkeypatch.setitem(sys.modules, name, module)

    return install


def opened(folder, start_step=None, **section):
    sinks = Sinks(console=False, jsonl=False, mlflow=section or True)
    config = {"run": {"steps": 10, "stop": None}, "model": {"note": "x" * 9000}}
    return open_sinks(sinks, folder, total_steps=10, start_step=start_step, config=config)


def write(sink, status="completed"):
    sink.write({"step": 5, "split": "train", "loss": 0.5, "grad_norm": math.nan, "odd@50": 1.0})
    sink.rewind(3)
    sink.write({"step": 4, "split": "eval", "accuracy": 0.25})
    sink.alert({"step": 5, "kind": "spike", "layer": "head", "severity": "act", "message": "the loss is high"})
    sink.summary({"status": status, "step": 5, "best": {"step": 4, "accuracy": 0.25}})
    sink.close()


def test_records_alerts_and_the_end(fake, tmp_path):
    seen = []
    fake(seen)
    (tmp_path / "a").mkdir()
    write(opened(tmp_path / "a", project="p", tracking_uri="http://host"))
    assert ("client", "http://host") in seen
    assert ("run", "of p", "a") in seen
    assert ("params", "run.steps", "10") in seen
    assert [len(call[2]) for call in seen if call[:2] == ("params", "model.note")] == [500]
    metrics = [(name, value, step) for kind, name, value, _, step in (c for c in seen if c[0] == "metrics")]
    assert ("train/loss", 0.5, 5) in metrics
    assert ("train/odd_50", 1.0, 5) in metrics
    assert metrics[-2:] == [("eval/accuracy", 0.25, 4), ("best/accuracy", 0.25, 4)]
    assert ("tag", "alert/5/spike/head", "step 5: the loss is high") in seen
    assert seen[-1] == ("end", "f00", "FINISHED")


@pytest.mark.parametrize(("status", "end"), [("interrupted", "KILLED"), ("diverged", "FAILED"), ("failed", "FAILED")])
def test_how_a_run_ends(fake, tmp_path, status, end):
    seen = []
    fake(seen)
    write(opened(tmp_path), status)
    assert seen[-1] == ("end", "f00", end)


@pytest.mark.parametrize(("start", "known"), [(5, ["old"]), (None, ["old"]), (5, [])])
def test_a_resumed_run_is_the_same_there_if_it_is_there(fake, tmp_path, start, known):
    (tmp_path / "tracker.json").write_text(json.dumps({"mlflow": {"run_id": "old"}}))
    seen = []
    fake(seen, runs=known)
    opened(tmp_path, start).close()
    resumed = ("update", "old", "RUNNING") in seen
    assert resumed == (start is not None and known != [])
    assert any(call[0] == "params" for call in seen) != resumed  # they cannot be changed
    assert json.loads((tmp_path / "tracker.json").read_text())["mlflow"]["run_id"] == ("old" if resumed else "f00")


def test_a_store_that_is_not_installed(fake, monkeypatch):
    fake([])

    def client(tracking_uri):
        raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy")

    monkeypatch.setattr(sys.modules["mlflow"], "MlflowClient", client)
    with pytest.raises(UsageError, match=r"with sqlite:.* needs the package 'sqlalchemy'.*pip install mlflow$"):
        check_mlflow(Mlflow())


def test_a_server_that_does_not_answer_is_not_waited_for(fake, monkeypatch):
    fake([])
    name, tries = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", []

    def ask(self, max_results):
        tries.append(os.environ[name])
        raise OSError("connection refused")

    monkeypatch.setattr(sys.modules["mlflow"].MlflowClient, "search_experiments", ask)
    for given in (None, "5"):
        monkeypatch.setenv(name, given) if given else monkeypatch.delenv(name, raising=False)
        with pytest.raises(UsageError, match=r"connection refused.*sinks.mlflow=false"):
            check_mlflow(Mlflow(tracking_uri="http://host"))
        assert os.environ.get(name) == given
    assert tries == ["1", "5"]


@installed
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_the_library_keeps_one_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/store.db"
    (tmp_path / "run").mkdir()
    for start in (None, 4):
        write(opened(tmp_path / "run", start, tracking_uri=uri, project="tést & run!"), "completed")
    assert capfd.readouterr().out == ""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tést & run!")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["run.steps"] == "10"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [(5, 0.5)] * 2
    assert run.data.metrics["best/accuracy"] == 0.25
    assert run.data.tags["alert/5/spike/head"] == "step 5: the loss is high"
    assert run.data.tags["jaxprop.status"] == "completed"
    assert "summary.json" in [file.path for file in client.list_artifacts(run.info.run_id)]
