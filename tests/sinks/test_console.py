import io
import math
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from rich import progress
from rich.console import Console

from jaxprop.sinks import console as console_module
from jaxprop.sinks.console import open_console, open_warnings, print_summary, summary_line, summary_table
from tests.processes import started

TRAIN = {"step": 50, "split": "train", "loss": 0.25, "grad_norm": 1.5, "lr": 1e-3, "examples_per_second": 5120.4}
EVAL = {"step": 50, "split": "eval", "loss": 0.5, "accuracy": 0.98765}
ALERT = {"step": 60, "severity": "warning", "message": "[bold]grad norm x 40"}


def run(console, start_step=0):
    sink = open_console(100, start_step=start_step, console=console)
    sink.note("compiled in 3.1 s")
    sink.progress(50)
    sink.write(TRAIN)
    deadline = time.monotonic() + 20
    while "loss 0.25" not in console.file.getvalue() and time.monotonic() < deadline:
        time.sleep(0.05)  # the bar is drawn four times a second, by a thread
    sink.write(EVAL)
    sink.alert(ALERT)
    sink.progress(100)
    sink.close()
    return console.file.getvalue()


def test_without_a_terminal_there_is_one_plain_line_a_record():
    assert run(Console(file=io.StringIO(), force_terminal=False, width=20)).splitlines() == [
        "compiled in 3.1 s",
        "step 50/100  train  loss 0.25  grad 1.5  lr 0.001  examples/s 5,120",
        "step 50/100  eval  loss 0.5  accuracy 0.9877",
        "step 60  warning: [bold]grad norm x 40",
    ]


def test_on_a_terminal_there_is_a_bar_with_the_time_left():
    shown = run(Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None))
    assert re.search(r"step 0/100 \S+ +compiling -:--:--", shown)
    assert re.search(r"step 50/100 ━+\S? +loss 0.25  grad 1.5  lr 0.001  examples/s 5,120 ", shown)
    assert "step 50  eval  loss 0.5  accuracy 0.9877" in shown
    assert "step 60  warning: [bold]grad norm x 40" in shown
    assert re.search(r"step 100/100 ━+ loss 0.25 .* 0:00:00", shown)
    assert shown.endswith("\x1b[?25h")  # the cursor is back


def test_a_resumed_run_begins_its_bar_where_it_goes_on():
    shown = run(Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None), start_step=40)
    assert "step 40/100" in shown
    assert "step 0/100" not in shown


def test_an_action_is_named_and_what_is_for_files_is_left_out():
    console = Console(file=io.StringIO(), force_terminal=False)
    sink = open_console(100, console=console)
    sink.alert({"step": 7, "kind": "action", "action": "cut_lr", "severity": "act", "message": "learning rate x 0.5"})
    sink.write(TRAIN | {"output_max": 3.5})
    assert console.file.getvalue().splitlines() == [
        "step 7  cut_lr: learning rate x 0.5",
        "step 50/100  train  loss 0.25  grad 1.5  lr 0.001  examples/s 5,120",
    ]


def test_the_bar_goes_back_with_the_run():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    sink = open_console(100, console=console)
    sink.progress(60)
    sink.rewind(20)
    sink.close()
    assert "step 20/100" in console.file.getvalue()


def test_the_time_left_counts_from_the_first_step_and_not_from_the_compilation(monkeypatch):
    clock = 0.0
    bars = []

    class Bar(progress.Progress):
        def __init__(self, *columns, **options):
            super().__init__(*columns, **options, get_time=lambda: clock, auto_refresh=False)
            bars.append(self)

    monkeypatch.setattr(progress, "Progress", Bar)
    monkeypatch.setattr(console_module.time, "monotonic", lambda: clock)
    sink = open_console(100, console=Console(file=io.StringIO(), force_terminal=True))
    clock = 300.0  # compiling
    for step in range(1, 51):
        sink.progress(step)
        clock += 2.0
    sink.close()
    assert bars[0].tasks[0].time_remaining == pytest.approx(50 * 2.0, rel=0.05)


def test_steps_in_quick_succession_are_not_all_drawn(monkeypatch):
    updates = []
    update = progress.Progress.update
    monkeypatch.setattr(progress.Progress, "update", lambda self, *a, **k: (updates.append(k), update(self, *a, **k)))
    monkeypatch.setattr(console_module.time, "monotonic", lambda: 7.0)
    sink = open_console(1000, console=Console(file=io.StringIO(), force_terminal=True))
    for step in range(1, 1001):
        sink.progress(step)
    sink.close()
    assert updates == [{"completed": 1}, {"completed": 1000}]


SCRIPT = """
from jaxprop.sinks.console import open_console, print_summary
sink = open_console(10)
sink.write({"step": 10, "split": "train", "loss": 0.5})
sink.close()
print_summary({"status": "completed", "step": 10})
"""


@pytest.mark.parametrize(
    ("settings", "bar", "colours"),
    [
        ({"TERM": "xterm-256color"}, True, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_in_a_real_terminal(settings, bar, colours):
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    environment |= settings | {"COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=60
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert ("━" in shown) is bar
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9;]*m", shown)) is colours
    assert "loss 0.5" in shown
    assert "status" in done.stdout.decode()
    assert "loss" not in done.stdout.decode()


def test_forced_colours_draw_no_bar_into_a_file():
    environment = os.environ | {"FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, env=environment, timeout=60)
    assert done.stderr == b"step 10/10  train  loss 0.5\n"


SUMMARY = {
    "status": "completed",
    "step": 1200,
    "metrics": {"accuracy": 0.98765, "perplexity": math.nan, "loss": 1.81},
    "reference": {"unigram_loss": 3.04, "majority_accuracy": 0.1, "human": 1.2},
    "parameters": 1234567,
    "seconds": 12.34,
    "compile_seconds": None,
    "versions": {"jax": "0.10.2"},
}


def printed(capsys, summary):
    print_summary(summary)
    out, err = capsys.readouterr()
    assert err == ""
    return [" ".join(line.split()) for line in out.splitlines() if "─" not in line]


def test_the_table_of_results(capsys):
    assert printed(capsys, SUMMARY) == [
        "result reference",
        "status completed",
        "step 1,200",
        "loss 1.81 unigram loss 3.04",
        "accuracy 0.9877 majority accuracy 0.1",
        "perplexity nan",
        "reference human 1.2",
        "parameters 1,234,567",
        "seconds 12.34",
    ]


def test_without_references_the_table_has_no_column_for_them(capsys):
    assert printed(capsys, {**SUMMARY, "reference": {}})[:3] == ["result", "status completed", "step 1,200"]
    assert summary_table({}).row_count == 0


def test_a_reader_that_leaves_does_not_end_the_run():
    program = (
        "from jaxprop.sinks.console import open_console\n"
        "sink = open_console(100_000)\n"
        "for step in range(20_000):\n"
        "    sink.write({'step': step, 'split': 'train', 'loss': 0.5})\n"
        "print('done')"
    )
    command = [sys.executable, "-c", program]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stderr.readline().startswith("step 0/")
        run.stderr.close()
        out = run.stdout.read()
        run.wait(60)
    assert out == "done\n"


def test_the_best_stands_beside_the_last_and_peaks_are_for_files(capsys):
    summary = {"status": "completed", "step": 9, "metrics": {"loss": 0.5, "f1": 0.7}, "best": {"step": 6, "loss": 0.25}}
    print_summary(summary)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["loss", "0.5", "0.25"] in shown
    assert any("best," in line and "6" in line for line in shown)
    console = Console(file=io.StringIO(), force_terminal=False, width=20)
    sink = open_console(100, console=console, log_every=50)
    sink.write({**TRAIN, "loss_max": 9.0, "loss_max_step": 31, "grad_norm_max": 9.0, "grad_norm_max_step": 31})
    sink.write({**TRAIN, "step": 3})
    sink.note("a \x1b[2J note")
    assert console.file.getvalue().splitlines() == [
        "step 50/100  train  loss 0.25  grad 1.5  lr 0.001  examples/s 5,120",
        "a ?[2J note",
    ]


def test_warnings_alone(capsys):
    sink = open_warnings()
    sink.note("compiled in 3.1 s")
    sink.write(TRAIN)
    sink.write(EVAL)
    sink.alert(ALERT | {"severity": "advice"})
    sink.alert(ALERT | {"severity": "act"})
    sink.alert(ALERT | {"severity": "act", "action": "cut_lr"})
    sink.close()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == ["step 60  act: [bold]grad norm x 40", "step 60  cut_lr: [bold]grad norm x 40"]


def test_the_results_in_one_line():
    summary = {"status": "completed", "step": 6900, "metrics": {"accuracy": 0.9972, "loss": None}, "seconds": 15.3}
    assert summary_line(summary, "runs/a\x1b") == (
        "completed: step 6,900  loss not finite  accuracy 0.9972  15 s  runs/a?"
    )
    assert summary_line({"metrics": {}}, "runs/a") == "runs/a"
