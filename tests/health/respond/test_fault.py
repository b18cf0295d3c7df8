"""The fault that is being answered: how long its answer is waited for, and which signs are of it."""

from jaxprop.health.respond.actions import Sign
from jaxprop.health.respond.fault import BROKEN, PATIENCE, RELATED, Fault

SIGN = Sign(7, None, 3, "unstable", "loss x 2")


def answered(due=8):
    fault = Fault()
    fault.answer(SIGN, due)
    return fault


def test_an_action_has_its_time_once():
    fault = answered()
    assert [fault.outlasts(8 + PATIENCE), fault.outlasts(9 + PATIENCE), fault.outlasts(10 + PATIENCE)] == [
        False, True, False,
    ]  # fmt: skip
    assert not fault.waiting


def test_an_action_is_in_force_from_the_step_after_it():
    fault = answered()
    assert [fault.in_force(step) for step in (8, 9, 8 + PATIENCE, 9 + PATIENCE)] == [None, SIGN, SIGN, None]
    assert Fault().in_force(1) is None


def test_a_broken_loss_ends_the_wait_only_in_a_row():
    fault = answered()
    broken = [True] * (BROKEN - 1) + [False] + [True] * BROKEN
    assert [fault.breaks_through(this) for this in broken] == [False] * (2 * BROKEN - 1) + [True]
    assert not fault.waiting


def test_later_signs_are_of_the_fault_for_a_while():
    fault = answered()
    last = 8 + PATIENCE + RELATED
    later = [SIGN._replace(step=step, since=step) for step in (last, last + 1)]
    assert [fault.joined(sign).since for sign in later] == [3, last + 1]
    assert fault.joined(SIGN._replace(since=1)).since == 1
    assert Fault().joined(SIGN) == SIGN
