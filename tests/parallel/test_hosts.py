"""What the processes of a run are, and what they agree on."""

import pytest

from jaxprop.errors import JaxpropError
from jaxprop.parallel import hosts
from jaxprop.parallel.hosts import PeerError, agree, check_peers, decided, is_first, lose, process_count, process_index
from tests.run.many import run_program


def test_one_process_is_the_first_and_agrees_with_itself():
    assert (process_count(), process_index(), is_first()) == (1, 0, True)
    assert agree("anything", {"a": [1, None]}) == {"a": [1, None]}
    assert decided("anything", lambda: 3) == 3


def test_every_process_gets_what_the_first_has_given_or_decided():
    program = """
print(process_count(), process_index(), is_first(), hosts.process_index)
for value in ({"steps": [1, None, "a"]}, 2):
    print(agree("value", value if is_first() else "ignored"))
print(decided("choice", lambda: process_index()))
"""
    for index, process in enumerate(run_program(program, 4)):
        assert process.code == 0, process.err
        assert process.out.splitlines() == [
            f"4 {index} {index == 0} {index}", "{'steps': [1, None, 'a']}", "2", "0"
        ]  # fmt: skip
        assert process.err == ""


def test_waiting_for_the_first_ends_with_a_sentence():
    program = """
if is_first():
    time.sleep(4)
else:
    try:
        agree("choice", seconds=1)
    except JaxpropError as error:
        print(error)
"""
    _, other = run_program(program, 2)
    assert other.code == 0, other.err
    assert other.out == "process 0 has not decided on 'choice' in 1 s; look at what it printed last\n"


def test_a_peer_that_is_lost_is_raised_until_a_new_run_begins():
    lose(PeerError("process 1 of 2 on b has failed: it was bad", 2))
    with pytest.raises(JaxpropError, match="it was bad") as lost:
        check_peers()
    assert lost.value.exit_code == 2
    lose(None)
    check_peers()
    assert hosts._lost == []
