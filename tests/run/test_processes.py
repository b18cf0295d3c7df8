"""Several processes from their start to their end: together, refused by one, failed in one, killed, not there."""

import os
import signal
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from jaxprop.errors import UsageError
from jaxprop.run import processes
from jaxprop.run.processes import failing_together, start_processes
from tests.run.many import ended, free_port, program_of, run_program, started, variables
from tests.run.trained import sections, write_arrays

COLLECTIVE = """
import numpy as np
from jax.experimental.multihost_utils import process_allgather
for i in range(10**9):
    process_allgather(np.ones(3))
    if i == 20 and process_index() == {who}:
        os.kill(os.getpid(), signal.SIGKILL)
"""
HEARTBEAT = {"JAXPROP_HEARTBEAT_SECONDS": "6"}


def test_one_process_starts_nothing(monkeypatch):
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with start_processes() as hosts, failing_together():
        assert hosts.process_count == 1
    with pytest.raises(UsageError, match="own"), start_processes("none"), failing_together():
        raise UsageError("own")


@pytest.mark.parametrize("value", ["soon", "1", "-5", "nan"])
def test_limits_are_checked(value):
    with pytest.raises(UsageError, match=f"expected seconds from 2 to 86400 in {processes.WAIT}, got '{value}'"):
        processes._seconds({processes.WAIT: value}, processes.WAIT)


def test_the_processes_run_together_and_the_coordinator_listens_at_its_address_alone():
    program = """
import numpy as np
from jax.experimental.multihost_utils import process_allgather
print(jax.device_count(), process_allgather(np.int32(process_index())).tolist(), file=sys.stderr)
if is_first():
    port = hosts.bind.rpartition(":")[2]
    rows = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").readlines()[1:]]
    print([row[1] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == int(port)], file=sys.stderr)
"""
    first, second = run_program(program, 2)
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    together, listening = first.err.splitlines()
    assert (together, second.err) == ("2 [0, 1]", "2 [0, 1]\n")
    # 127.0.0.1 as the kernel writes it, in a table of IPv4 or mapped into one of IPv6.
    assert listening.startswith(("['0100007F:", "['0000000000000000FFFF00000100007F:"))
    assert listening.count(":") == 1


def test_what_the_first_refuses_ends_all_with_its_exit_code():
    program = """
decided("folder", lambda: (_ for _ in ()).throw(UsageError("the folder is another run's")))
"""
    first, *others = run_program(program, 4)
    assert first.err == "error: the folder is another run's\n"
    for index, other in enumerate(others, start=1):
        of = f"process {index} of 4 on "
        assert other.err.startswith(of)
        assert other.err.endswith("has failed: the folder is another run's\n")
        assert other.err.count("\n") == 1
    assert [process.code for process in (first, *others)] == [2] * 4
    assert max(process.seconds for process in (first, *others)) < 5


def test_a_failure_of_one_ends_the_others_whatever_they_wait_for():
    program = """
if process_index() == 1:
    raise ValueError("broken here")
time.sleep(100)
"""
    first, second = run_program(program, 2)
    assert (first.code, second.code) == (1, 1)
    assert second.err.startswith("process 1 of 2 on ")
    assert "error: ValueError: broken here" in second.err
    assert "process 1 of 2 on " in first.err
    assert first.err.endswith(" has failed: ValueError: broken here\n")
    assert max(first.seconds, second.seconds) < 10


@pytest.mark.timeout(180)
def test_a_killed_process_is_named_and_ends_the_others():
    first, second = run_program(COLLECTIVE.format(who=1), 2, **HEARTBEAT)
    assert second.code == -signal.SIGKILL
    assert first.code not in (0, -signal.SIGKILL)
    assert first.seconds < 6 + 5
    assert "no sign of process 1 of 2 on " in first.err
    assert "error: process 1 of 2 on " in first.err


def test_a_killed_coordinator_ends_the_others():
    first, second = run_program(COLLECTIVE.format(who=0), 2, **HEARTBEAT)
    assert first.code == -signal.SIGKILL
    assert second.code not in (0, -signal.SIGKILL)
    assert second.seconds < 6 + 5
    assert "process 0 of 2 on " in second.err or "coordination service" in second.err


@pytest.mark.parametrize("index", [0, 1])
def test_who_does_not_come_is_an_error_that_says_what_to_check(index):
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-c", "from jaxprop.run.processes import *\nwith start_processes():\n    pass"]
    env = variables(2, index, address, JAXPROP_WAIT_SECONDS="4")
    began = time.monotonic()
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert time.monotonic() - began < 60
    assert (ran.returncode, ran.stdout) == (1, "")
    who = "1 of 2 processes" if index == 0 else "process 0 of 2"
    assert ran.stderr.splitlines()[-1].endswith(
        f"error: waited 4 s for {who} at {address} in vain; check that every process has been started with the same "
        "JAX_COORDINATOR_ADDRESS and count, that the hosts reach this port through their firewalls, and that none of "
        "them has ended with an error of its own"
    )
    assert ran.stderr.startswith("error:" if index == 0 else "process 1 of 2 on ")


def write_config(folder, **changes):
    write_arrays(folder)
    config = sections(folder, sinks={"console": True}, checkpoint={"enabled": False}, **changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "jaxprop", "train", str(folder / "config.yaml"), "--run", str(folder / "run")]


@pytest.mark.timeout(240)
def test_a_signal_to_one_process_makes_all_leave_after_the_same_step(tmp_path):
    """One of them draws its batches more slowly, and each gives its own part of them."""
    program = f"""
import jax.numpy as jnp, numpy as np, optax
import jaxprop
from jaxprop.run.fit import fit
def batches():
    while True:
        time.sleep(0.003 * process_index())
        yield {{"x": np.ones(4, np.float32)}}
ran = fit(lambda p, batch, key: jnp.mean((p["w"] * batch["x"] - 3) ** 2), optax.sgd(0.01), batches(), steps=10**7,
          run={str(tmp_path / "run")!r}, params={{"w": jnp.zeros(())}}, checkpoint=False, health=False, prefetch=0,
          log_every=50, mesh=jaxprop.make_mesh())
print("left at", ran.status, ran.step, file=sys.stderr)
code = 75
"""
    with started(program_of(program), 2) as children:
        said = []
        while not (said and said[-1].startswith("step 50/")):
            said.append(children[0].stderr.readline())
            assert said[-1], said
        children[1].send_signal(signal.SIGTERM)
        first, second = ended(children, 100)
    assert (first.code, second.code) == (75, 75), (said, first.err, second.err)
    told, left = second.err.splitlines()
    assert told.startswith("process 1 of 2 on ")
    assert told.endswith(": SIGTERM: stopping after this step; Ctrl-C leaves at once")
    assert left.startswith("left at interrupted ")
    assert first.err.splitlines()[-1] == left
    summary = yaml.safe_load((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], str(summary["step"])) == ("interrupted", left.split()[-1])


@pytest.mark.timeout(240)
def test_a_folder_in_use_and_a_config_that_is_wrong_end_all_processes_alike(tmp_path):
    command = write_config(tmp_path, run={"steps": 4, "eval_every": 4})
    from jaxprop.run.lock import hold

    with hold(tmp_path / "run"), started(command, 2) as children:
        first, second = ended(children)
    assert (first.code, second.code) == (1, 1)
    assert first.err.startswith(f"error: the run folder {tmp_path / 'run'} is in use by process {os.getpid()} on ")
    assert "process 0 of 2 on" in second.err
    assert sorted(path.name for path in tmp_path.glob("run/*")) == []
    with started([*command, "optimizer.lr=-1"], 2) as children:
        first, second = ended(children)
    assert (first.code, second.code) == (2, 2)
    assert "optimizer.lr" in first.err


@pytest.mark.parametrize("index", [0, 1])
def test_the_context_of_ray_train_becomes_variables(monkeypatch, index):
    """Ray is stood in for: process 0 hands out its address and a free port, and the others are given them."""
    given = []
    handed = "10.5.0.1:41233"
    context = SimpleNamespace(get_world_size=lambda: 2, get_world_rank=lambda: index)
    modules = {
        "ray": {"util": SimpleNamespace(get_node_ip_address=lambda: "10.5.0.1")},
        "ray.util": {"get_node_ip_address": lambda: "10.5.0.1"},
        "ray.train": {"get_context": lambda: context},
        "ray.train.collective": {"broadcast_from_rank_zero": lambda mine: given.append(mine) or mine or handed},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    found = processes._of_ray("auto")
    assert found["RAY_TRAIN_WORLD_SIZE"] == "2"
    assert found["RAY_TRAIN_WORLD_RANK"] == str(index)
    host, port = found["RAY_TRAIN_COORDINATOR"].split(":")
    assert host == "10.5.0.1"
    assert int(port) > 1023
    assert given == [None] if index else given[0].startswith("10.5.0.1:")
    assert processes._of_ray("slurm") == {}
    context.get_world_size = lambda: 1
    assert processes._of_ray("ray") == {}
    monkeypatch.delitem(sys.modules, "ray.train")
    assert processes._of_ray("ray") == {}


REFUSED = {
    "no mesh": ("", "the mesh has devices of 1 of them, so the others would train models of their own"),
    "a local mesh": (
        ", mesh=jax.sharding.Mesh(np.array(jax.local_devices()), ('data',))",
        "the mesh has devices of 1 of them, so the others would train models of their own",
    ),
    "parts of different sizes": (
        ", mesh=jaxprop.make_mesh()",
        "the size of its part of a batch is",
    ),
    "evaluations of different lengths": (
        ", mesh=jaxprop.make_mesh(), evaluate=[{'x': np.ones(4, np.float32)}] * (2 + process_index()), eval_every=1",
        "the size of its part of an evaluation's next batch is",
    ),
}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", REFUSED)
def test_processes_that_would_not_train_together_are_refused(case, tmp_path):
    options, says = REFUSED[case]
    size = "4" if "evaluate" in options else "4 + 4 * process_index()"
    program = f"""
import jax.numpy as jnp, numpy as np, optax
import jaxprop
batches = [{{"x": np.ones({size}, np.float32)}}]
jaxprop.fit(lambda p, batch, key: jnp.mean((p["w"] * batch["x"]) ** 2), optax.sgd(0.01), batches, steps=3, quiet=True,
            run={str(tmp_path / "run")!r}, params={{"w": jnp.ones(())}}, checkpoint=False{options})
"""
    ended = run_program(program, 2)
    assert [process.code for process in ended] == [2, 2], [process.err for process in ended]
    assert all(says in process.err for process in ended)
