"""Kills one or both of two processes that train together, at random moments, against the undisturbed run.

    python scripts/faults_peers.py [--trials 100] [--seed 0] [--json PATH]

A trial starts `jaxprop train --dist env` in two processes that split the parameters between them (fsdp), kills process
0, process 1 or both with SIGKILL at a moment that is drawn over the whole length of a run, and starts both again until
the run is complete. As it must be: a survivor ends within the 5 s after which a process is taken for lost and 5 s more
(or, where they have not met yet, after the 30 s that it waits for the other and these 10), with an exit code that is
not 0; not more than the interval between checkpoints is lost, or two where one was being written; and the digests of
all leaves of the last checkpoint, the summary and all records are those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faults_signals as runs

HEARTBEAT = 5.0  # seconds without a sign of a process
LIMIT = HEARTBEAT + 5
WAIT = 30.0  # seconds that a process waits for one that has never come
LONGEST = 180.0  # seconds that a run may take in all
VICTIMS = {"process 0": (0,), "process 1": (1,), "both": (0, 1)}
OVERRIDES = ("model.hidden=[64,64]", "parallel.mesh.fsdp=2")


def main() -> int:
    """Runs the trials; returns 1 where any has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    room = Path(tempfile.mkdtemp(prefix="jaxprop-peers-"))
    try:
        done = trials(room, args.trials, args.seed)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return runs.reported(done, table(done), args.json)


def trials(room: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Runs trials in a folder; returns what was drawn, and what was wrong with each."""
    runs.write_data(room)
    (room / "config.yaml").write_text(runs.CONFIG.format(data=room, seed=0))
    for name in ("cold", "whole"):  # the second finds its programs compiled
        began = time.monotonic()
        codes = [child.wait(LONGEST) for child in start(room, name)]
        assert codes == [0, 0], said(room, name)
    lasts, whole = time.monotonic() - began, left(room / "whole")
    assert whole == left(room / "cold")
    done = []
    for number in range(seed, seed + count):
        done.append(trial(room, random.Random(number), f"run-{number}", lasts, whole))
        print(json.dumps({"seed": number, **done[-1]}), flush=True)
    return done


def trial(room: Path, draw: random.Random, name: str, lasts: float, whole: dict[str, Any]) -> dict[str, Any]:
    """Kills some of the processes of one run and lets it go on to its end."""
    victims, wrong, folder = draw.choice(list(VICTIMS)), [], room / name
    children = start(room, name)
    time.sleep(draw.random() * lasts)
    had_ended = any(child.poll() is not None for child in children)
    for index in VICTIMS[victims]:
        children[index].kill()
    killed = time.monotonic()
    codes = [ended(child) for child in children]
    seconds = time.monotonic() - killed
    survivors = [code for index, code in enumerate(codes) if index not in VICTIMS[victims]]
    have_met = "in vain" not in said(room, name)
    if seconds > (LIMIT if have_met else WAIT + LIMIT):
        wrong.append(f"the survivor ended after {seconds:.1f} s")
    if not had_ended and any(code in (0, None) for code in survivors) and not runs.is_complete(folder):
        wrong.append(f"exit codes {codes}: {said(room, name)}")
    newest = max(runs.steps(folder / "checkpoints"), default=0)
    writing, lost = any((folder / "checkpoints").glob(".saving-*")), runs.last_record(folder) - newest
    if lost > (2 if writing else 1) * runs.INTERVAL:
        wrong.append(f"lost {lost} steps, writing a checkpoint: {writing}")
    again = [ended(child) for child in start(room, name)]
    if again != [0, 0]:
        wrong.append(f"resumed: exit codes {again}: {said(room, name)}")
    else:
        found = left(folder)
        wrong += [f"another {key}" for key in found if found[key] != whole[key]]
    if not wrong:
        shutil.rmtree(folder)
    return {
        "victims": victims, "had_ended": had_ended, "codes": codes, "seconds": round(seconds, 2), "lost": lost,
        "wrong": wrong,
    }  # fmt: skip


def start(room: Path, name: str) -> list[subprocess.Popen[bytes]]:
    """Starts both processes of a run."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    command = [sys.executable, "-m", "jaxprop", "train", str(room / "config.yaml"), *OVERRIDES]
    command += ["--run", str(room / name), "--quiet", "--dist", "env"]
    children = []
    for index in range(2):
        launched = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index), "JAX_COORDINATOR_ADDRESS": address}
        launched |= {"JAXPROP_WAIT_SECONDS": f"{WAIT:.0f}", "JAXPROP_HEARTBEAT_SECONDS": f"{HEARTBEAT:.0f}"}
        cached = {
            "JAX_COMPILATION_CACHE_DIR": str(room / "programs"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "PYTHONPATH": str(Path(__file__).parent.parent),
        }  # fmt: skip
        with open(room / f"{name}.{index}.err", "ab") as err:
            environment = os.environ | launched | cached
            children.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err, env=environment))
    return children


def ended(child: subprocess.Popen[bytes]) -> int | None:
    """Waits for a process; returns its exit code, or None for one that had to be killed for taking too long."""
    try:
        return child.wait(LONGEST)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return None


def said(room: Path, name: str) -> str:
    """The end of what both processes have printed."""
    return " | ".join((room / f"{name}.{index}.err").read_text()[-600:] for index in range(2))


def left(folder: Path) -> dict[str, Any]:
    """What must be the same of a run however it came to its end."""
    manifest = json.loads((folder / "checkpoints" / str(runs.STEPS) / "manifest.json").read_text())
    return {"state": manifest["digests"], **runs.told(folder)}


def table(done: list[dict[str, Any]]) -> str:
    """The trials by who was killed."""
    out = [
        "| killed | trials | had ended before | as they must be | longest until the survivor's end | most steps lost |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in VICTIMS:
        some = [one for one in done if one["victims"] == name]
        if some:
            longest = max(one["seconds"] for one in some)
            early, wrong = (sum(bool(one[key]) for one in some) for key in ("had_ended", "wrong"))
            most = max(one["lost"] for one in some)
            out.append(f"| {name} | {len(some)} | {early} | {len(some) - wrong} | {longest:.1f} s | {most} |")
    return "\n".join(out)


if __name__ == "__main__":
    raise SystemExit(main())
