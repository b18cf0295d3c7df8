"""How a run ended: the same words in `summary.json`, in the report and in Python."""

import json

from jaxprop.report.verdict import ENDED
from jaxprop.run.status import OPEN, Status, headline


def test_a_status_is_its_word_in_json():
    assert json.loads(json.dumps({"status": Status.DIVERGED})) == {"status": "diverged"}
    assert [str(status) for status in Status] == [status.value for status in Status]


def test_the_report_has_words_for_every_status():
    assert set(ENDED) == set(Status) > set(OPEN)


def test_a_headline_says_how_the_run_ended():
    assert headline("it broke", Status.COMPLETED, 9) == "It broke; the run completed all the same."
    assert headline("it broke", Status.INTERRUPTED, 1234) == "It broke; the run was interrupted at step 1,234."
