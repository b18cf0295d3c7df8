"""Signals and kills at random moments of real `jaxprop train` processes, against the undisturbed run.

    python scripts/faults_signals.py [--trials 100] [--signals KILL] [--seed 0] [--json PATH]

A trial starts a run of 40 steps, sends it a signal while it compiles, waits for data, steps, saves, evaluates, or at
any time, and runs the same command again until it is complete. The moment is drawn: the n-th time that the run begins
such a thing, and up to 30 ms later. Compared with the undisturbed run, bit by bit: the whole final state, the step of
the best checkpoint and the metrics in the summary, and every line of the records but for the speed.

After SIGTERM and SIGINT the process must end within 30 s with exit code 75 or 130 (or 0, where it was at its end), and
what is saved must be of its last step. After SIGKILL, `lost` is the number of steps that had been recorded and are
taken again: at most the interval of 5 steps, or, where a checkpoint was being written (`writing`), those of that
interval besides.

To be cheap, each process is forked from one that has imported the packages and has not yet started JAX's backend, and
finds its programs compiled. From there on it is the command line's `main`, with its signals, threads and files.
"""

from __future__ import annotations

import argparse
import atexit
import faulthandler
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")

STEPS, INTERVAL, EVALUATED = 40, 5, 10
CODES = {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGKILL: -9}
MOMENTS = {"compile": 3, "data": 40, "step": 80, "save": 8, "evaluation": 12, "any": 0}  # and how often there are such
DELAY = 0.03  # seconds
SPEED = ("examples_per_second", "seconds", "session_seconds", "compile_seconds", "data_wait_share")

CONFIG = """
task: {{name: classify}}
data: {{name: arrays, train: {data}/train.npz, test: {data}/test.npz, batch_size: 16}}
model: {{name: mlp, hidden: [16], dropout: 0.2, batch_norm: true}}
optimizer: {{name: adamw, lr: 0.01, schedule: {{name: warmup_cosine, warmup_steps: 5}}}}
parallel: {{devices: 1}}
checkpoint: {{every_steps: 5, keep: 2}}
health: {{every: 1, rare_every: 10}}
run: {{steps: 40, eval_every: 10, log_every: 1, ema_decay: 0.9, seed: {seed}}}
"""


class Whole(NamedTuple):
    """An undisturbed run: its configuration, what it has left, and how long it takes with its programs compiled (s)."""

    config: Path
    left: dict[str, Any]
    lasts: float


def main() -> int:
    """Runs the trials; returns 1 where any has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--signals", nargs="+", default=["TERM", "INT"], choices=["TERM", "INT", "KILL"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    room = Path(tempfile.mkdtemp(prefix="jaxprop-signals-"))
    try:
        done = trials(room, args.trials, [signal.Signals[f"SIG{name}"] for name in args.signals], args.seed)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return reported(done, table(done), args.json)


def reported(done: list[dict[str, Any]], text: str, path: Path | None) -> int:
    """Prints what became of the trials and writes them to a file, if there is one; returns 1 where any has failed."""
    print(text)
    if path is not None:
        path.write_text(json.dumps(done, indent=1) + "\n")
    return 1 if any(one["wrong"] for one in done) else 0


def trials(
    room: Path, count: int, signals: list[signal.Signals], seed: int, *, quiet: bool = False
) -> list[dict[str, Any]]:
    """Runs trials in a folder; returns what was drawn, and what was wrong with each."""
    prepare(room)
    wholes: dict[int, Whole] = {}
    done = []
    for number in range(seed, seed + count):
        draw = random.Random(number)
        run_seed = draw.randrange(3)
        if run_seed not in wholes:
            wholes[run_seed] = undisturbed(room, run_seed)
        done.append(trial(wholes[run_seed], room / f"run-{number}", draw, signals[number % len(signals)]))
        if not quiet:
            print(json.dumps({"seed": number, **done[-1]}), flush=True)
    return done


def undisturbed(room: Path, seed: int) -> Whole:
    """Runs a configuration twice, so that every program is compiled when the second is timed."""
    config = room / f"config-{seed}.yaml"
    config.write_text(CONFIG.format(data=room, seed=seed))
    ended(start(config, room / f"whole-{seed}"))
    began = time.monotonic()
    ended(start(config, room / f"again-{seed}"))
    lasts = time.monotonic() - began
    assert left(room / f"again-{seed}") == left(room / f"whole-{seed}")
    return Whole(config, left(room / f"whole-{seed}"), lasts)


def prepare(room: Path) -> None:
    """Writes the data, and imports what a process needs but for the backend."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(room / "programs")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    write_data(room)
    from jax._src import xla_bridge

    for name in ("orbax.checkpoint", "rich.console", "jaxprop.sinks.console", "jaxprop.cli.app", "jaxprop.run.train"):
        importlib.import_module(name)

    assert not xla_bridge._backends, "a forked process could not use a backend that was started before"


def write_data(room: Path) -> None:
    """Writes examples of three classes."""
    import numpy as np

    rng = np.random.default_rng(0)
    for name, length in (("train", 100), ("test", 40)):
        labels = np.arange(length) % 3
        inputs = rng.normal(size=(length, 5)).astype(np.float32)
        inputs[np.arange(length), labels] += 2
        np.savez(room / f"{name}.npz", inputs=inputs, labels=labels)


def trial(whole: Whole, folder: Path, draw: random.Random, number: signal.Signals) -> dict[str, Any]:
    """Disturbs one run and lets it go on to its end."""
    moment = draw.choice(list(MOMENTS))
    times, delay = draw.randrange(1, 1 + max(1, MOMENTS[moment])), draw.random() * DELAY
    wrong, config = [], whole.config
    if moment == "any":
        child = start(config, folder)
        time.sleep(draw.random() * whole.lasts)
        sent = time.monotonic()
        os.kill(child, number)
    else:
        child, sent = start(config, folder, (moment, times, delay, number)), None
    code = ended(child)
    seconds = time.monotonic() - sent if sent is not None else took(folder)
    if code not in (CODES[number], 0):
        wrong.append(f"exit code {code}: {(folder.parent / f'{folder.name}.err').read_text()[-300:]}")
    newest, writing = max(steps(folder / "checkpoints"), default=0), any((folder / "checkpoints").glob(".saving-*"))
    lost = last_record(folder) - newest
    if number != signal.SIGKILL and code != 0 and (seconds > 30 or lost > 0):
        wrong.append(f"took {seconds:.1f} s and lost {lost} steps")
    if number == signal.SIGKILL and lost > (2 if writing else 1) * INTERVAL:
        wrong.append(f"lost {lost} steps, writing a checkpoint: {writing}")
    again = ended(start(config, folder))
    if again != 0:
        wrong.append(f"resumed: exit code {again}: {(folder.parent / f'{folder.name}.err').read_text()[-300:]}")
    else:
        found = left(folder)
        wrong += [f"another {name}" for name in found if found[name] != whole.left[name]]
    if not wrong:
        shutil.rmtree(folder)
    return {
        "signal": number.name, "moment": moment, "times": times, "code": code, "seconds": round(seconds, 2),
        "newest": newest, "lost": lost, "writing": writing, "wrong": wrong,
    }  # fmt: skip


# -- processes ------------------------------------------------------------------------------------


def start(
    config: Path,
    folder: Path,
    disturb: tuple[str, int, float, int] | None = None,
    bytes_a_file: int | None = None,
) -> int:
    """Forks a process that runs `jaxprop train`, and whose files may not grow beyond a size; returns its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which this process has none of
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        from jax._src.interpreters import mlir
        from jaxlib.mlir import ir

        err = os.open(folder.parent / f"{folder.name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(err, 1)
        os.dup2(err, 2)
        faulthandler.dump_traceback_later(170, file=sys.stderr)
        mlir.global_thread_pool = ir.ThreadPool()  # the threads of that before are not in this process
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if bytes_a_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails with an error, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_a_file, bytes_a_file))
        code = train(config, folder, disturb)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        os._exit(code)


def train(config: Path, folder: Path, disturb: tuple[str, int, float, int] | None) -> int:
    """`jaxprop train`, which leaves the digest of its final state, and disturbs itself at the moment drawn."""
    import jax
    import numpy as np

    from jaxprop import cli
    from jaxprop.run import train as run_train
    from jaxprop.run.watchdog import Watchdog

    conduct = run_train.conduct

    def conducted(*args: Any, **kwargs: Any) -> Any:
        ran = conduct(*args, **kwargs)
        if ran.state is not None and ran.outcome.exit_code == 0:
            digest = hashlib.sha256()
            for leaf in jax.tree.leaves(ran.state):
                key = jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                digest.update(np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes())
            (folder.parent / f"{folder.name}.digest").write_text(digest.hexdigest())
        return ran

    run_train.conduct = conducted
    if disturb is not None:
        moment, times, delay, number = disturb
        enters, left = Watchdog.enters, [times]

        def entering(self: Any, kind: str) -> None:
            enters(self, kind)
            left[0] -= kind == moment
            if left[0] == 0 and kind == moment:
                threading.Timer(delay, send).start()

        def send() -> None:
            (folder.parent / f"{folder.name}.sent").write_text(str(time.monotonic()))
            os.kill(os.getpid(), number)

        Watchdog.enters = entering  # type: ignore[method-assign]
    return cli.main(["train", str(config), "--run", str(folder)])


def ended(child: int) -> int:
    """Waits for a process; returns its exit code, negative where a signal has ended it."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        number, status = os.waitpid(child, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -99  # it hung


# -- what a run has left ----------------------------------------------------------------------------


def took(folder: Path) -> float:
    """Seconds since the signal was sent; 0 where the run had ended before."""
    path = folder.parent / f"{folder.name}.sent"
    return time.monotonic() - float(path.read_text()) if path.exists() else 0.0


def steps(folder: Path) -> list[int]:
    """The steps of a folder of checkpoints, ascending."""
    from jaxprop.checkpoint.folder import steps_in

    return steps_in(folder)


def last_record(folder: Path) -> int:
    """The last step of which a whole record was written, or 0."""
    steps = [line["step"] for line in lines(folder / "metrics.jsonl") if line["split"] == "train"]
    return max(steps, default=0)


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file."""
    if not path.exists():
        return []
    texts = path.read_text().split("\n")[:-1]
    return [{k: v for k, v in json.loads(text).items() if k not in SPEED} for text in texts]


def left(folder: Path) -> dict[str, Any]:
    """What must be the same of a run however it came to its end."""
    from jaxprop.checkpoint import Checkpoints

    state = (folder.parent / f"{folder.name}.digest").read_text()
    best = Checkpoints(folder / "checkpoints", best="loss").best()
    return {"state": state, "best checkpoint": best, **told(folder)}


def told(folder: Path) -> dict[str, Any]:
    """What a run has written of itself: its summary and records, but for how long it took."""
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "summary": {name: summary[name] for name in ("status", "step", "metrics", "best", "test")},
        **{name: lines(folder / f"{name}.jsonl") for name in ("metrics", "layers", "alerts")},
    }


def is_complete(folder: Path) -> bool:
    """Whether a run has taken all of its steps."""
    path = folder / "summary.json"
    return path.exists() and json.loads(path.read_text())["status"] == "completed"


def table(done: list[dict[str, Any]]) -> str:
    """The trials by signal and moment."""
    out = [
        "| signal | moment | trials | as it must be | longest to the end | lost | writing a checkpoint, lost |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for name in sorted({one["signal"] for one in done}):
        for moment in MOMENTS:
            some = [one for one in done if (one["signal"], one["moment"]) == (name, moment)]
            if some:
                lost = {writing: [one["lost"] for one in some if one["writing"] == writing] for writing in (0, 1)}
                out.append(
                    f"| {name} | {moment} | {len(some)} | {sum(not one['wrong'] for one in some)} "
                    f"| {max(one['seconds'] for one in some):.1f} s | {max(lost[0], default='')} "
                    f"| {len(lost[1])}, {max(lost[1], default='')} |"
                )
    return "\n".join(out)


if __name__ == "__main__":
    raise SystemExit(main())
