"""Programs of a sweep in processes of their own: the same runs, stopped, lost, and their share of the machine."""

import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

from jaxprop.errors import UsageError
from jaxprop.run.swept import read_results
from jaxprop.tools.sweep import Axis, choice, plan, processes, sweep
from jaxprop.tools.sweep.processes import part_of, shares

CONFIG = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 64},
    "model": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "adam", "lr": 1e-2},
    "health": {"every": 1, "rare_every": 10},
    "parallel": {"devices": 1},
    "run": {"steps": 20, "log_every": 5, "eval_every": 10},
}
SHAPES = Axis("model.hidden", ([8], [4]))
RATES = Axis("optimizer.lr", (0.01, 0.1))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return str(path)


@pytest.mark.timeout(240)
def test_the_runs_are_those_of_one_process(config, tmp_path):
    made, told = plan(config, [SHAPES, RATES]), []
    found = sweep(made, tmp_path / "many", lanes=1, processes=2, tell=told.append)
    assert told[0] == "4 runs in 2 processes"
    assert sum("2 runs by one program" in line for line in told) == 2
    assert (found.exit_code, found.left) == (0, 0)
    alone = sweep(made, tmp_path / "one", lanes=1, tell=str)
    for one, other in zip(found.ended, alone.ended, strict=True):
        assert (one.setting, one.folder, one.status) == (other.setting, other.folder, other.status)
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5)
    again = sweep(made, tmp_path / "many", lanes=1, tell=str)  # complete, whoever has trained them
    assert [one.metrics for one in again.ended] == [one.metrics for one in found.ended]


@pytest.mark.timeout(240)
def test_a_signal_is_handed_on_and_the_same_command_goes_on(config, tmp_path):
    made = plan(config, [SHAPES, RATES], ["run.steps=3000", "run.eval_every=1000"])

    asked = []

    def stop(line):
        if "2 runs by one program" in line and not asked:  # of each process; a second signal would leave at once
            asked.append(line)
            signal.raise_signal(signal.SIGINT)

    found = sweep(made, tmp_path / "s", lanes=1, processes=2, tell=stop)
    assert found.exit_code == 130
    assert found.left >= 1
    assert read_results(tmp_path / "s").left == found.left
    assert sweep(made, tmp_path / "s", lanes=1, processes=2, tell=str).left == 0


def test_runs_of_a_process_that_is_lost_are_told(config, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_started", stand_in("import sys; sys.stdin.readline(); sys.exit(9)"))
    found = sweep(plan(config, [SHAPES]), tmp_path / "s", processes=2, tell=str)
    assert [one.status for one in found.ended] == ["failed"] * 2
    assert {one.problem for one in found.ended} == {"the process that trained it ended with code 9"}
    assert found.exit_code == 1


def stand_in(code):
    """In place of a worker: a program that has its input and output."""

    def started(work, part):
        worker = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        worker.stdin.write("{}\n")
        worker.stdin.flush()
        return worker

    return started


def test_runs_that_a_signal_meets_before_they_begin_are_left(config, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_started", stand_in("import time; time.sleep(60)"))
    found = sweep(
        plan(config, [SHAPES]), tmp_path / "s", processes=2, tell=lambda line: signal.raise_signal(signal.SIGINT)
    )
    assert (found.exit_code, found.left, found.ended) == (130, 2, [])


def test_processes_that_cannot_be_started_are_told(config, tmp_path, monkeypatch):
    first, workers = stand_in("import sys; sys.stdin.read()"), []

    def started(work, part):
        if workers:
            raise OSError(24, "Too many open files")
        workers.append(first(work, part))
        return workers[0]

    monkeypatch.setattr(processes, "_started", started)
    with pytest.raises(UsageError, match=r"2 processes cannot be started, 1 can \(Too many open files\); use fewer"):
        sweep(plan(config, [SHAPES]), tmp_path / "s", processes=2, tell=str)
    assert workers[0].poll() is not None


@pytest.mark.timeout(240)
def test_folders_of_any_name_are_those_of_the_sweep(config, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    found = sweep(plan(config, [SHAPES]), tmp_path / "s\u00fc", processes=2, tell=str)
    assert [one.status for one in found.ended] == ["completed"] * 2
    assert [path.name for path in tmp_path.glob("s*") if path.is_dir()] == ["s\u00fc"]


def test_complete_runs_are_ranked_where_the_time_is_over_before_they_are_read(config, tmp_path):
    before = sweep(plan(config, [RATES]), tmp_path / "s", lanes=1, tell=str)
    more = plan(config, [Axis("optimizer.lr", (0.01, 0.02, 0.1))])
    found = sweep(more, tmp_path / "s", lanes=1, minutes=1e-9, tell=str)
    assert found.left == 1
    assert [one.metrics for one in found.ended] == [one.metrics for one in before.ended]
    assert read_results(tmp_path / "s").settings == before.ranked


def test_a_process_takes_its_share_before_jax_is_loaded():
    code = "import sys, jaxprop.tools.sweep_worker; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def measuring(monkeypatch):
    """Processes are measured, however short the runs and whatever the machine has."""
    monkeypatch.setattr(choice, "PROCESSES_WORTH", 0)
    monkeypatch.setattr(choice, "cores", lambda: 2)
    monkeypatch.setattr(choice, "ROUND_SECONDS", 0.05)
    monkeypatch.setattr(choice, "resident_bytes", lambda: 1)  # this process has those of all tests before
    return monkeypatch


@pytest.mark.timeout(240)
def test_processes_are_taken_where_they_are_faster(config, tmp_path, measuring):
    measuring.setattr(choice, "GAIN", 1e6)
    made, told = plan(config, [SHAPES, RATES]), []
    found = sweep(made, tmp_path / "many", processes=None, tell=told.append)
    assert re.fullmatch(r"4 runs in 2 processes: \S+ ms a step, \S+ ms in one process", told[0])
    assert [one.status for one in found.ended] == ["completed"] * 4
    alone = sweep(made, tmp_path / "one", lanes=1, tell=str)
    for one, other in zip(found.ended, alone.ended, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5)
    told.clear()
    assert sweep(made, tmp_path / "many", processes=None, tell=told.append).left == 0
    assert not any("processes" in line for line in told)  # complete already: nothing to measure


@pytest.mark.timeout(240)
def test_runs_that_are_new_are_divided_and_those_that_are_complete_are_kept(config, tmp_path, measuring):
    measuring.setattr(choice, "GAIN", 1e6)
    before = sweep(plan(config, [RATES]), tmp_path / "s", lanes=1, tell=str)
    told = []
    more = plan(config, [Axis("optimizer.lr", (0.01, 0.02, 0.03, 0.1))])
    found = sweep(more, tmp_path / "s", processes=None, tell=told.append)
    assert told[0].startswith("2 runs in 2 processes: ")
    assert any("complete already, and not trained again: 2 of" in line for line in told)
    assert found.left == 0
    assert [one.metrics for one in found.ended][::3] == [one.metrics for one in before.ended]


@pytest.mark.timeout(240)
def test_one_process_is_taken_where_several_are_slower(config, tmp_path, measuring):
    measuring.setattr(choice, "GAIN", 0.0)
    told = []
    found = sweep(plan(config, [RATES]), tmp_path / "s", processes=None, tell=told.append)
    assert re.fullmatch(r"2 runs in 1 process: \S+ ms a step, \S+ ms in 2 processes", told[0])
    assert [one.status for one in found.ended] == ["completed"] * 2


@pytest.mark.timeout(240)
def test_a_process_that_ends_while_it_is_timed_costs_no_run(config, tmp_path, measuring):
    measuring.setattr(processes, "WORKER", "jaxprop.no_such_module")
    told = []
    found = sweep(plan(config, [RATES]), tmp_path / "s", processes=None, tell=told.append)
    assert told[0] == "2 runs in 1 process, since another process ended"
    assert [one.status for one in found.ended] == ["completed"] * 2


def test_processes_that_do_not_fit_into_the_memory_are_not_measured(config, tmp_path, measuring):
    measuring.setattr(choice, "available_bytes", lambda: 3 << 30)
    measuring.setattr(choice, "resident_bytes", lambda: 1 << 30)
    measuring.setattr(processes, "_started", None)  # whoever starts one fails
    assert sweep(plan(config, [RATES]), tmp_path / "s", processes=None, tell=str).left == 0


def test_short_sweeps_and_lanes_are_not_measured(config, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "cores", lambda: 2)
    monkeypatch.setattr(processes, "_started", None)  # whoever starts one fails
    assert sweep(plan(config, [RATES]), tmp_path / "short", processes=None, tell=str).left == 0
    monkeypatch.setattr(choice, "PROCESSES_WORTH", 0)
    assert sweep(plan(config, [RATES]), tmp_path / "lanes", processes=None, lanes=2, tell=str).left == 0


def test_runs_are_divided_evenly_and_programs_as_little_as_that_allows(config):
    made = plan(config, [Axis("model.hidden", ([8], [4])), Axis("optimizer.lr", (0.01, 0.02, 0.03, 0.04))])
    alike = [{str(one.setting["model.hidden"]) for one in share} for share in shares(made.trials, 2)]
    assert alike == [{"[8]"}, {"[4]"}]
    for count in (3, 5, 8, 20):
        divided = shares(made.trials, count)
        assert sorted(one.folder for share in divided for one in share) == sorted(one.folder for one in made.trials)
        assert max(map(len, divided)) == -(-8 // count)


def test_a_process_keeps_what_it_compiles_apart_from_others_on_other_cores(tmp_path):
    code = (
        "import os; os.sched_getaffinity = lambda pid: {3}; from jaxprop.run.compile_cache import move_cache as move\n"
        "for folder in FOLDERS: os.environ['JAX_COMPILATION_CACHE_DIR'] = folder; move(os.environ, print); "
        "print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
    )
    folders = [str(tmp_path / "jaxprop" / "compiled-of-two-cores"), "/mine"]
    ran = subprocess.run(
        [sys.executable, "-c", code.replace("FOLDERS", str(folders))], capture_output=True, text=True, check=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAXPROP_COMPILE_CACHE": ""},
    )  # fmt: skip
    ours, theirs = ran.stdout.split()
    assert ours.startswith(folders[0].removesuffix("of-two-cores"))
    assert ours != folders[0]
    assert theirs == "/mine/1-cores"


def test_each_process_has_its_part_of_the_gpus(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5")
    assert [part_of(i, 2)["CUDA_VISIBLE_DEVICES"] for i in range(2)] == ["0,5", "2"]
    shared = [part_of(i, 6) for i in range(6)]
    assert [part["CUDA_VISIBLE_DEVICES"] for part in shared] == ["0", "2", "5"] * 2
    assert {part["XLA_PYTHON_CLIENT_MEM_FRACTION"] for part in shared} == {"0.38"}
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert part_of(1, 2) == {"JAXPROP_PART": "1/2"}


def test_each_process_has_its_share_of_the_cores():
    code = (
        "import os; os.sched_getaffinity = lambda pid: {1, 2, 4, 7}; "
        "os.sched_setaffinity = lambda pid, cores: print(sorted(cores)); "
        "from jaxprop.tools.sweep_worker import share_of_cores as share; share('1/2'); share('0/5'); share('0/1')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[2, 7]\n"  # with fewer cores than processes, or one process, all stay as they are


def test_tpus_belong_to_one_process(config, tmp_path, monkeypatch):
    monkeypatch.setattr(
        processes.Path, "glob", lambda self, pattern: iter([self / "accel0"] if "accel" in pattern else [])
    )
    with pytest.raises(UsageError, match="the TPUs of a machine belong to one process; leave --processes out"):
        sweep(plan(config, [SHAPES]), tmp_path / "s", processes=2, tell=str)
