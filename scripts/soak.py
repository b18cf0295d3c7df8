"""Runs that live through a random schedule of faults, against the same runs undisturbed.

    python scripts/soak.py [--minutes 10] [--faults 8] [--only KIND ...] [--seed 0] [--runs 1000] [--json PATH]

Each run of 40 steps is disturbed again and again until it has met `--faults` faults, and then left to end. What is
drawn, by the run's seed:

    KILL, TERM, INT   the signal at a random moment, as in `faults_signals.py`
    suspend           SIGSTOP at a random time, and SIGCONT a while later
    beside            a second process for the same folder, which has to refuse within 5 s; the first is then killed
    bytes, inodes     the disk, a tmpfs where it can be mounted, has room for so much more: exit code 1 unless the run
                      came to its end, and no step that was saved before is lost; without a tmpfs, files cannot grow
    damage            one file of the newest checkpoint is changed, cut or removed, where there is an older whole one
    stray             an empty step folder, a copy, a note or a foreign folder lies among the checkpoints, and is told
    clock             the times of all files go ten years back or ahead

At the end the final state, the step of the best checkpoint, the metrics in the summary and all records are, bit by
bit, those of the undisturbed run. A line of JSON a run says what it met; `--seed` repeats it. The schedule ends after
`--minutes`, and the exit code is 1 where any run was not as it must be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import faults_signals as runs

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.checkpoint.damage import KINDS
from tests.checkpoint.damage import damage as damage_file

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
DECADE = 10 * 365.25 * 24 * 3600  # seconds
REFUSED = 1  # the exit code of a second process for a folder in use
PATIENCE = 5.0  # seconds within which it has to refuse
STRAYS = "strays-were-put-here"


class Room(NamedTuple):
    """A disturbed run: its configuration, its folder, how long it takes undisturbed (s), and its draws."""

    config: Path
    folder: Path
    lasts: float
    draw: random.Random


def main() -> int:
    """Runs until the time is over; returns 1 where any run was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=1000, help="at most so many runs")
    parser.add_argument("--faults", type=int, default=8, help="faults a run")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="KIND")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    room, end = Path(tempfile.mkdtemp(prefix="jaxprop-soak-")), time.monotonic() + 60 * args.minutes
    done: list[dict[str, Any]] = []
    try:
        runs.prepare(room)
        wholes: dict[int, runs.Whole] = {}
        with mounted(room / "disk"):
            while len(done) < args.runs and time.monotonic() < end:
                done.append(soak(room, args.seed + len(done), args.faults, args.only, wholes))
                print(json.dumps(done[-1]), flush=True)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return runs.reported(done, table(done), args.json)


def soak(place: Path, seed: int, faults: int, kinds: list[str], wholes: dict[int, runs.Whole]) -> dict[str, Any]:
    """One run through its schedule and to its end."""
    draw = random.Random(seed)
    run_seed = draw.randrange(3)
    if run_seed not in wholes:
        wholes[run_seed] = runs.undisturbed(place, run_seed)
    whole = wholes[run_seed]
    one = Room(whole.config, place / "disk" / f"run-{seed}", whole.lasts, draw)
    met, wrong = [], []
    while len(met) < faults and not runs.is_complete(one.folder) and not wrong:
        kind = draw.choice(kinds)
        complaint = FAULTS[kind](one)
        if complaint is None:  # it could not be done: nothing is saved yet, or the run has ended meanwhile
            complaint = signalled(one, "KILL")
            kind = "KILL"
        met.append(kind)
        wrong += [f"{kind}: {complaint}"] if complaint else []
    strays = (one.folder / STRAYS).exists()
    code = runs.ended(runs.start(one.config, one.folder))
    if code != 0:
        wrong.append(f"the last session: exit code {code}: {said(one)}")
    elif not wrong:
        found = runs.left(one.folder)
        wrong += [f"another {name}" for name in found if found[name] != whole.left[name]]
        wrong += [f"left behind: {path.name}" for path in (one.folder / "checkpoints").glob(".*")]
    if strays and code == 0 and "since it is no checkpoint" not in said(one, whole=True):
        wrong.append("nothing was said of what lies among the checkpoints")
    if not wrong:
        shutil.rmtree(one.folder)
    return {"seed": seed, "met": met, "wrong": wrong}


# -- faults: each returns what is wrong, "" if nothing is, None if it could not be done -----------------


def signalled(one: Room, name: str) -> str:
    """A signal at a moment that is drawn."""
    moment = one.draw.choice([moment for moment in runs.MOMENTS if moment != "any"])
    times = one.draw.randrange(1, 1 + runs.MOMENTS[moment])
    number = SIGNALS[name]
    code = runs.ended(runs.start(one.config, one.folder, (moment, times, one.draw.random() * runs.DELAY, number)))
    return "" if code in (runs.CODES[number], 0) else f"exit code {code}: {said(one)}"


def suspend(one: Room) -> str:
    """A process that is stopped for a while goes on as if nothing had been, and is killed in the end."""
    child = runs.start(one.config, one.folder)
    time.sleep(one.draw.random() * one.lasts)
    os.kill(child, signal.SIGSTOP)
    time.sleep(one.draw.random())
    os.kill(child, signal.SIGCONT)
    time.sleep(one.draw.random() * one.lasts / 2)
    return killed(one, child)


def beside(one: Room) -> str | None:
    """A second process for a folder in use refuses at once, and harms nothing."""
    child, end = runs.start(one.config, one.folder), time.monotonic() + 60
    while not is_held(one.folder) and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(one.draw.random() * one.lasts / 2)
    os.kill(child, signal.SIGSTOP)  # so that it cannot end before the second has looked
    if not is_held(one.folder):
        return killed(one, child) or None  # it has ended
    began = time.monotonic()
    code = runs.ended(runs.start(one.config, one.folder))
    seconds = time.monotonic() - began
    os.kill(child, signal.SIGCONT)
    time.sleep(one.draw.random() * one.lasts / 2)
    wrong = killed(one, child)
    if code != REFUSED or seconds > PATIENCE:
        return f"the second process had exit code {code} after {seconds:.1f} s"
    return wrong


def full(one: Room, what: str) -> str:
    """A disk without room for a further byte or name is an error; the next session goes on from what was whole."""
    before, room = runs.steps(one.folder / "checkpoints"), one.draw.randrange(200, 40_000)
    with limited(one.folder.parent, **{what: room * 10 if what == "bytes" else room % 90}) as is_disk:
        code = runs.ended(runs.start(one.config, one.folder, bytes_a_file=None if is_disk else room))
    if max(before, default=0) > max(runs.steps(one.folder / "checkpoints"), default=0):
        return f"of the checkpoints {before}, the newest is gone"
    return "" if code in ((0, 1) if runs.is_complete(one.folder) else (1,)) else f"exit code {code}: {said(one)}"


def damage(one: Room) -> str | None:
    """The newest of two whole checkpoints is damaged."""
    folder = one.folder / "checkpoints"
    steps = runs.steps(folder)
    if len(steps) < 2:
        return None
    files = sorted(path for path in (folder / str(steps[-1])).rglob("*") if path.is_file())
    damage_file(one.draw.choice(files), one.draw.choice(KINDS), one.draw)
    return ""


def stray(one: Room) -> str | None:
    """Something lies among the checkpoints that is none."""
    folder = one.folder / "checkpoints"
    steps = runs.steps(folder)
    if not steps:
        return None
    kind = one.draw.choice(["empty", "copy", "note", "foreign", "file"])
    if kind == "empty":
        (folder / "99").mkdir(exist_ok=True)
    elif kind == "copy":
        shutil.copytree(folder / str(steps[0]), folder / f"copy of {steps[0]}", dirs_exist_ok=True)
    elif kind == "note":
        (folder / "notes.txt").write_text("the good one is the first\n")
    elif kind == "foreign":
        (folder / "best-model").mkdir(exist_ok=True)
    else:
        (folder / "98").write_text("")
    (one.folder / STRAYS).write_text("")
    return ""


def clock(one: Room) -> str | None:
    """All files of the run seem to be ten years older, or to come from the future."""
    if not one.folder.exists():
        return None
    when = time.time() + one.draw.choice([-DECADE, DECADE])
    for path in [one.folder, *one.folder.rglob("*")]:
        os.utime(path, (when, when), follow_symlinks=False)
    return ""


FAULTS: dict[str, Any] = {
    **{name: lambda one, name=name: signalled(one, name) for name in SIGNALS},
    **{of.__name__: of for of in (suspend, beside, damage, stray, clock)},
    **{what: lambda one, what=what: full(one, what) for what in ("bytes", "inodes")},
}


# -- a disk that can be full ----------------------------------------------------------------------------

AMPLE = {"bytes": 1 << 30, "inodes": 1 << 20}


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A folder on a disk of its own, where this process may mount one."""
    folder.mkdir()
    has_disk = mount("-t", "tmpfs", "-o", options(AMPLE), "tmpfs", str(folder))
    try:
        yield
    finally:
        if has_disk:
            subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def limited(disk: Path, **left: int) -> Iterator[bool]:
    """Leaves so many bytes or inodes on the disk; yields whether it is one."""
    at = os.statvfs(disk)
    used = {"bytes": (at.f_blocks - at.f_bfree) * at.f_frsize, "inodes": at.f_files - at.f_ffree}
    limits = AMPLE | {what: used[what] + count for what, count in left.items()}
    try:
        yield disk.is_mount() and mount("-o", f"remount,{options(limits)}", str(disk))
    finally:
        if disk.is_mount():
            mount("-o", f"remount,{options(AMPLE)}", str(disk))


def options(limits: dict[str, int]) -> str:
    """The options of a tmpfs."""
    return f"size={limits['bytes']},nr_inodes={limits['inodes']}"


def mount(*arguments: str) -> bool:
    """Whether a file system could be mounted."""
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


# -- what has become of a run ---------------------------------------------------------------------------


def killed(one: Room, child: int) -> str:
    """Kills a process that may have ended; returns what is wrong with how it did."""
    os.kill(child, signal.SIGKILL)  # a process that has ended is there until it is waited for
    code = runs.ended(child)
    return "" if code in (-9, 0) else f"exit code {code}: {said(one)}"


def is_held(folder: Path) -> bool:
    """Whether a process has the lock of a run's folder; read from the kernel, since trying would take it."""
    try:
        inode = (folder / ".lock").stat().st_ino
    except FileNotFoundError:
        return False
    return any(line.split()[5].endswith(f":{inode}") for line in Path("/proc/locks").read_text().splitlines())


def said(one: Room, whole: bool = False) -> str:
    """What the processes of a run have printed, or the end of it."""
    path = one.folder.parent / f"{one.folder.name}.err"
    text = path.read_text() if path.exists() else ""
    return text if whole else text[-300:]


def table(done: list[dict[str, Any]]) -> str:
    """How often each fault was met, and how many runs ended as the undisturbed one."""
    met = Counter(kind for one in done for kind in one["met"])
    right = sum(not one["wrong"] for one in done)
    counts = ", ".join(f"{kind} {met[kind]}" for kind in FAULTS)
    return f"{right} of {len(done)} runs as they must be, after {met.total()} faults: {counts}"


if __name__ == "__main__":
    raise SystemExit(main())
