"""The watchdog: what hangs is ended with its name and its stack, what is only slow, stopped or debugged is not."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import timeit
from pathlib import Path
from types import SimpleNamespace

import pytest

import jaxprop
from jaxprop.config.schema.run import Timeout
from jaxprop.run import stacks, watchdog
from jaxprop.run.stacks import Frame
from jaxprop.run.watchdog import Watchdog
from tests.processes import started

ROOT = os.path.dirname(os.path.dirname(jaxprop.__file__))


@pytest.fixture
def watched(tmp_path):
    """A watchdog that the test looks for, and what it would end the process with."""
    stop = SimpleNamespace(asked=None)
    made = Watchdog(tmp_path, stop, period=1.0)
    made.codes = []
    made.stop = stop
    made._leave = made.codes.append
    made._bounded = lambda act, seconds: (act(), True)[1]
    made.limit_by(Timeout())
    return made


def look(watched, times):
    for _ in range(times):
        watched.look()
        if watched.codes:
            return


@pytest.mark.parametrize(
    ("kind", "first"), [("data", 3600), ("step", 21600), ("evaluation", 21600), ("save", 600), ("compile", 21600)]
)
def test_the_first_of_a_kind_has_its_time(watched, kind, first, capfd):
    watched.enters(kind)
    look(watched, first - 1)
    assert watched.codes == []
    look(watched, 1)
    assert watched.codes == [1]
    told = capfd.readouterr().err
    assert f"error: {watchdog.WHAT[kind]} for {first} s: in " in told
    assert f"run.timeout.{kind}={2 * first} allows it" in told
    assert "test_the_first_of_a_kind" in (watched._folder / "stacks.txt").read_text()


@pytest.mark.parametrize(("longest", "limit"), [(2, 600), (29, 600), (40, 800)])
def test_later_ones_have_twenty_times_the_longest_and_no_less_than_ten_minutes(watched, longest, limit):
    for seconds in (1, longest, 1):
        watched.enters("data")
        look(watched, seconds)
        watched.enters("step")
        look(watched, 1)
    watched.enters("data")
    look(watched, limit - 1)
    assert watched.codes == []
    look(watched, 1)
    assert watched.codes == [1]


def test_a_large_checkpoint_has_the_time_of_a_slow_disk(watched):
    watched.save_bytes = 20_000_000_000
    watched.enters("save")
    look(watched, 600 + 2000 - 1)
    assert watched.codes == []
    look(watched, 1)
    assert watched.codes == [1]


def test_limits_are_as_they_are_set(watched):
    watched.limit_by(Timeout(data=5.0, step=None))
    watched.enters("step")
    look(watched, 100_000)
    assert watched.codes == []
    watched.enters("data")
    look(watched, 4)
    assert watched.codes == []
    look(watched, 1)
    assert watched.codes == [1]


def test_with_none_nothing_is_ended(watched):
    watched.limit_by(None)
    watched.enters("data")
    look(watched, 100_000)
    assert watched.codes == []


def test_before_and_after_training_nothing_is_ended(watched):
    look(watched, 100_000)
    assert watched.codes == []


def test_progress_within_the_same_is_progress(watched):
    watched.limit_by(Timeout(evaluation=5.0))
    watched.enters("evaluation")
    for _ in range(20):
        look(watched, 4)
        watched.goes_on()
    assert watched.codes == []


def test_what_was_done_before_is_done_again_after_a_block(watched):
    watched.enters("step")
    with watched.doing("evaluation"):
        assert watched.kind == "evaluation"
        with watched.doing("compile"):
            assert watched.kind == "compile"
        assert watched.kind == "evaluation"
    assert watched.kind == "step"
    assert list(watched.waiting(iter("ab"))) == ["a", "b"]
    assert watched.kind == "step"


@pytest.mark.parametrize(("module", "file"), [("pdb", "pdb.py"), ("jax._src.compiler", "x/jax/_src/compiler.py")])
def test_a_debugger_and_a_compiler_are_waited_for(watched, monkeypatch, module, file):
    frames = {stacks.main_thread(): [Frame(file, 1, "f", module)]}
    monkeypatch.setattr(stacks, "of_threads", lambda: frames)
    watched.limit_by(Timeout(step=5.0))
    watched.enters("step")
    look(watched, 21_599)
    assert watched.codes == []


def test_a_loader_that_hangs_is_ended_after_saving_and_a_step_without(watched, capfd):
    rescued, errors = [], []
    watched.rescue = lambda: rescued.append(1) or "step 7 is saved"
    watched.sum_up = errors.append
    watched.limit_by(Timeout(data=5.0, step=5.0))
    watched.enters("data")
    look(watched, 5)
    assert (rescued, watched.codes) == ([1], [1])
    assert "; step 7 is saved; the stack of every thread is in " in capfd.readouterr().err
    assert errors[0].startswith("the data source has not returned for 5 s: in ")
    watched.codes.clear()
    watched.enters("step")
    look(watched, 5)
    assert (rescued, watched.codes) == ([1], [1])


@pytest.mark.parametrize("kind", ["data", "compile", "evaluation"])
def test_a_stop_is_met_after_ten_seconds_where_the_main_thread_is_held_up(watched, kind, capfd):
    watched.rescue = lambda: "step 7 is saved"
    watched.enters(kind)
    look(watched, 100)
    watched.stop.asked = signal.SIGTERM
    look(watched, 9)
    assert watched.codes == []
    look(watched, 1)
    assert watched.codes == [75]
    assert capfd.readouterr().err == "SIGTERM: leaving while the run is held up; step 7 is saved\n"


def test_a_stop_while_nothing_is_to_lose_just_ends(watched):
    watched.rescue = pytest.fail
    watched.stop.asked = signal.SIGINT
    look(watched, 10)
    assert watched.codes == [130]


@pytest.mark.parametrize("kind", ["step", "save"])
def test_a_stop_waits_for_a_step_and_for_a_save(watched, kind):
    watched.rescue = pytest.fail
    watched.enters(kind)
    watched.stop.asked = signal.SIGTERM
    look(watched, 500)
    assert watched.codes == []


def test_a_stop_during_progress_is_left_to_the_main_thread(watched):
    watched.rescue = pytest.fail
    watched.stop.asked = signal.SIGTERM
    for _ in range(100):
        watched.enters("data")
        look(watched, 1)
        watched.enters("step")
        look(watched, 1)
    assert watched.codes == []


def test_a_state_that_the_step_has_taken_is_left_to_the_main_thread(tmp_path):
    stop = SimpleNamespace(asked=signal.SIGTERM)
    made, codes = Watchdog(tmp_path, stop, period=0.01), []
    made._leave = codes.append

    def taken():
        raise RuntimeError("Array has been deleted")

    made.rescue = taken
    made.enters("compile")
    look_at = int(watchdog.GRACE / 0.01) + 1
    made.codes = codes
    look(made, look_at)
    assert codes == []
    made.enters("step")  # it can go on


def test_the_main_thread_stays_where_it_is_while_its_state_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "GRACE", 0.05)
    began, order = threading.Event(), []

    def rescue():
        made.enters("save")  # the thread that saves says so too
        began.set()
        time.sleep(0.3)
        order.append("saved")
        return "saved"

    made = Watchdog(tmp_path, SimpleNamespace(asked=signal.SIGTERM), period=0.01)
    made.rescue = rescue
    made._leave = lambda code: order.append(code) or made._ended.set()
    made.enters("compile")
    with made:
        assert began.wait(10)
        made.enters("step")  # the main thread, once its program is compiled
        order.append("went on")
    assert order == ["saved", 75, "went on"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of computing time")
def test_the_timer_is_gone_after_the_run(tmp_path):
    made = Watchdog(tmp_path, period=0.01)
    made.limit_by(Timeout())
    with made, made.doing("data"):
        end = time.monotonic() + 20
        while not signal.getitimer(signal.ITIMER_VIRTUAL)[0] and time.monotonic() < end:
            time.sleep(0.01)
        assert 3000 < signal.getitimer(signal.ITIMER_VIRTUAL)[0] < 3601 * os.cpu_count()
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_watching_costs_a_step_nothing(tmp_path):
    made = Watchdog(tmp_path)

    def watch():
        with made.doing("data"):
            pass

    assert min(timeit.repeat(watch, number=50, repeat=20)) / 50 < 1e-4  # 2 us on an idle machine


# -- processes ------------------------------------------------------------------------------------

LINE = """
import os, re, signal, sys, threading, time
import jax.numpy as jnp, numpy as np, optax
import jaxprop
from jaxprop.run import conduct, watchdog
from jaxprop.checkpoint import Checkpoints
from jaxprop.run.stepper import Stepper

where, folder, prefetch, timeout = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
if timeout > 60:
    watchdog.GRACE = 1.0

def hang():
    print("hangs", flush=True)
    if prefetch == 1:
        re.match("(a+)+$", 40 * "a" + "b")  # for years, and no other thread runs
    while where != "nowhere":
        time.sleep(0.05)

class Batches:
    drawn = 0
    def __iter__(self): return self
    def __next__(self):
        self.drawn += 1
        if self.drawn == 8 and where == "data":
            hang()
        rng = np.random.default_rng(self.drawn)
        return {"x": rng.normal(size=(8, 3)).astype(np.float32)}
    def state(self): return {"drawn": self.drawn}
    def restore(self, state): self.drawn = state["drawn"]
    batches_per_epoch = 5

compiled, saved = Stepper._compile, Checkpoints.save
def compiling(self, state, batch, variant, note):
    if where == "compile" and len(self._called) == 2:
        with self._compiling():
            hang()
    return compiled(self, state, batch, variant, note)
def save(self, step, *args, **kwargs):
    if where == "save" and step == 10:
        hang()
    return saved(self, step, *args, **kwargs)
Stepper._compile, Checkpoints.save = compiling, save

def evaluation():
    class Evaluated:
        times = 0
        def __iter__(self):
            Evaluated.times += 1
            yield {"x": np.ones((8, 3), np.float32)}
            if Evaluated.times == 2 and where == "evaluation":
                hang()
            yield {"x": np.ones((8, 3), np.float32)}
    return Evaluated()

ran = jaxprop.fit(
    lambda params, batch, key: jnp.mean((batch["x"] @ params["w"] - batch["x"].sum(1)) ** 2),
    optax.adam(0.1), Batches(), run=folder, steps=20, params={"w": jnp.zeros(3)}, evaluate=evaluation(), eval_every=5,
    prefetch=prefetch, quiet=True, timeout={where: timeout} if where != "nowhere" else None,
    checkpoint={"every_steps": 5}, health={"every": 1, "rare_every": 8},
)
print(np.asarray(ran.state.params["w"]).tobytes().hex(), flush=True)
code = {"completed": 0, "interrupted": 75}[ran.status]
if code:
    from jaxprop.run.interrupt import end_within
    end_within(5, code)
sys.exit(code)
"""


def command(script, where, folder, prefetch=2, timeout=600.0):
    return [sys.executable, str(script), where, str(folder), str(prefetch), str(timeout)]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "line.py"
    path.write_text(LINE)
    return path


@pytest.fixture(scope="module")
def whole(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return run(command(script, "nowhere", folder)).stdout.splitlines()[-1], folder


ENVIRONMENT = os.environ | {"PYTHONPATH": ROOT}


def run(arguments):
    return subprocess.run(arguments, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def records(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]


@pytest.mark.timeout(400)  # processes that import jax and compile
@pytest.mark.parametrize(("where", "prefetch"), [("data", 2), ("data", 0), ("save", 2), ("evaluation", 2)])
def test_a_process_that_hangs_is_ended_and_its_run_goes_on(script, whole, tmp_path, where, prefetch):
    folder = tmp_path / "run"
    seconds = {"save": 20}.get(where, 4)  # the first save imports Orbax
    ran = run(command(script, where, folder, prefetch, timeout=seconds))
    assert ran.returncode == 1, ran.stderr
    assert f"error: {watchdog.WHAT[where]} for {seconds} s: in {script}:" in ran.stderr
    assert "(hang)" in ran.stderr
    assert "(hang)" in (folder / "stacks.txt").read_text()
    assert json.loads((folder / "summary.json").read_text())["status"] == "failed"
    newest = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    assert newest == {"data": 7, "save": 5, "evaluation": 5}[where]
    assert ("; step 7 is saved, and the same command goes on from there;" in ran.stderr) == (where == "data")
    resumed = run(command(script, "nowhere", folder))
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == whole[0]
    assert records(folder) == records(whole[1])


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(
    ("where", "prefetch", "step"), [("data", 2, 7), ("data", 0, 7), ("compile", 2, 1), ("evaluation", 2, 10)]
)
def test_sigterm_is_met_within_30_s_wherever_a_process_hangs(script, whole, tmp_path, where, prefetch, step):
    folder = tmp_path / "run"
    with started(
        command(script, where, folder, prefetch), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    ) as child:
        assert child.stdout.readline() == "hangs\n"
        time.sleep(0.5)
        child.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert child.wait(timeout=60) == 75
        assert time.monotonic() - begin < 30
    newest = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    assert newest == step
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    resumed = run(command(script, "nowhere", folder))
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == whole[0]
    assert records(folder) == records(whole[1])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of computing time")
def test_the_timer_is_that_of_the_loader_as_soon_as_there_may_be_one(watched, monkeypatch):
    """Python may stand still a moment after a step has begun, before the watchdog looks again."""
    wound = []
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: wound.append(seconds / os.cpu_count()))
    watched._period = 600.0
    with watched:
        watched.limit_by(Timeout(data=7, step=50))
        for kind in ("compile", "step", "data", "save", "idle"):
            watched.enters(kind)
    assert wound == [7, 0, 0]


@pytest.mark.timeout(400)
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer of computing time")
def test_a_regular_expression_that_backtracks_is_ended_by_the_kernel(script, tmp_path):
    ran = run(command(script, "data", tmp_path / "run", prefetch=1, timeout=2.0))
    assert ran.returncode == -signal.SIGVTALRM, ran.stderr
    assert f'File "{script}", line ' in ran.stderr
    assert "in hang" in ran.stderr


@pytest.mark.timeout(400)
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_process_that_was_stopped_does_not_wake_up_to_its_end(script, tmp_path):
    with started(
        command(script, "data", tmp_path / "run", timeout=6.0),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    ) as child:  # fmt: skip
        assert child.stdout.readline() == "hangs\n"
        child.send_signal(signal.SIGSTOP)
        time.sleep(8)
        child.send_signal(signal.SIGCONT)
        time.sleep(2)
        assert child.poll() is None
        assert child.wait(timeout=30) == 1
