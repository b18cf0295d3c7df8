"""Small folders that pass for runs, and a process in which acts on champions are killed. Imports no jax.

Started as a program, it reads a line of JSON for each child that it is to fork, and prints the child's pid:

    {"root": "...", "act": "promote", "stop": 7}     the child ends at its 7th change of a file, as if killed there
    {"root": "..."}                                  the child does one act after the other until it is killed

It then prints the child's exit status; 9 where the child was stopped, 0 where it had nothing left to do.
"""

import itertools
import json
import os
import random
import sys
from pathlib import Path

from jaxprop.run import champions

STOPPED = 9
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")


def fake_run(folder, content="weights", status="completed"):
    """Writes what the champions take for a run; a checkpoint of one file."""
    step = folder / "checkpoints" / "10"
    (step / "state").mkdir(parents=True, exist_ok=True)
    (step / "manifest.json").write_text("{}")
    (step / "state" / "arrays").write_text(content)
    (folder / "config.yaml").write_text("task: {name: classify}\n")
    (folder / "metrics.jsonl").write_text('{"step": 10}\n')
    (folder / "summary.json").write_text(json.dumps({"status": status, "step": 10}))
    return folder


def challenge(root, about, promote):
    with champions.begin(root, "digits", {"data": about}) as making:
        fake_run(making.folder, f"{about} {making.number}")
        if promote is not None:
            record = {"reason": "better" if promote else "worse on the old data"}
            return champions.settle(making, record, promote=promote)


def roll_back(root):
    serving = champions.current(root, "digits").number
    others = [v.number for v in champions.versions(root, "digits") if v.has_served and v.number != serving]
    if others:
        champions.rollback(root, "digits", others[-1], "the cameras were changed back")


def adopt(root):
    free = next(f"new{i}" for i in itertools.count() if not (root / f"new{i}" / "champion.json").exists())
    champions.adopt(root, free, root / ".." / "run")


ACTS = {
    "adopt": adopt,
    "promote": lambda root: challenge(root, "next week", True),
    "keep aside": lambda root: challenge(root, "bad week", False),
    "leave": lambda root: challenge(root, "unfinished week", None),
    "roll back": roll_back,
}


def everything(root):
    while True:
        random.choice(list(ACTS.values()))(root)


def stop_at(count, root):
    """Ends this process at a change of a file below the root, before it is made."""
    seen = itertools.count()

    def hook(event, arguments):
        writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writing) and str(root) in str(arguments[0]) and next(seen) == count:
            os._exit(STOPPED)

    sys.addaudithook(hook)


def main():
    os.fsync = lambda _: None  # a killed process loses nothing that it has written, and a disk may be slow
    for line in sys.stdin:
        asked = json.loads(line)
        root, pid = Path(asked["root"]), os.fork()
        if pid == 0:
            random.seed(os.getpid())
            if "stop" in asked:
                stop_at(asked["stop"], root)
                ACTS[asked["act"]](root)
            else:
                everything(root)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
