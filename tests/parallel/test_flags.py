"""Requests that all processes see at the same call."""

import pytest

from jaxprop.parallel.flags import SharedFlag
from tests.run.many import run_program


def test_a_flag_of_one_process_is_seen_at_once_and_its_first_value_counts():
    flag = SharedFlag("stop")
    assert (flag.poll(), flag.known) == (None, None)
    flag.set("SIGTERM")
    flag.set("SIGINT")
    assert (flag.known, flag.poll(), flag.poll()) == ("SIGTERM", "SIGTERM", "SIGTERM")
    flag.close()
    assert flag.poll() == "SIGTERM"


@pytest.mark.timeout(240)
def test_all_processes_see_a_request_at_the_same_call_whoever_makes_it_and_however_far_they_are():
    """The processes are not in step: each is as slow as its number says."""
    program = """
from jaxprop.parallel.flags import SharedFlag
for who in range(process_count()):
    flag, calls, seen = SharedFlag("stop"), 0, None
    while seen is None and calls < 4000:
        if calls == 20 + 10 * who and process_index() == who:
            flag.set(f"by {who}")
        if calls == 25 and process_index() == 0:
            flag.set("by 0")
        seen = flag.poll()
        calls += 1
        time.sleep(0.002 * process_index())
    flag.close()
    print(calls, seen)
flag = SharedFlag("stop")  # one process makes no more calls when another asks
if is_first():
    flag.close()
    print("done")
else:
    time.sleep(1)
    flag.set("late")
    print(flag.poll() or flag.poll() or "done")
    flag.close()
"""
    ended = run_program(program, 3)
    assert [process.code for process in ended] == [0, 0, 0], [process.err for process in ended]
    assert len({process.out for process in ended}) == 1
    lines = ended[0].out.splitlines()
    calls, values = zip(*(line.split(" ", 1) for line in lines[:3]), strict=True)
    assert all(20 < int(number) < 4000 for number in calls)
    assert values[0] == "by 0"
    assert lines[3] == "done"
