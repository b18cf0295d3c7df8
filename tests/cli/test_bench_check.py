"""`jaxprop bench check`: which files can be published, and what has to change in the others."""

import json
from pathlib import Path

from tests.bench.documents import EVIL, device_document, make_document, make_row, save

NAME = "nvidia-h100-80gb-hbm3-device-2026-11-27.json"


def test_a_file_that_is_ready(jaxprop, package):
    save(device_document(), Path(NAME))
    ran = jaxprop("bench", "check", NAME)
    assert (ran.code, ran.out, ran.err) == (0, f"OK {NAME}\n", "")


def test_files_that_are_not(jaxprop, package):
    save(device_document(), Path(NAME))
    save(make_document(make_row(), complete=False, notes=[f"/home/ann {EVIL}"]), Path("mine.json"))
    Path("cut.json").write_text("{")
    ran = jaxprop("bench", "check", NAME, "mine.json", "cut.json", "nowhere.json")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.splitlines() == [
        f"OK {NAME}",
        "mine.json: not ready",
        "  the document is not complete; run the command to its end",
        "  notes.0: holds a path, '/home/ann'; take it out",
        "  the file is called 'mine.json'; rename it to 'nvidia-h100-80gb-hbm3-train-2026-11-27.json'",
        "cut.json: not ready",
        "  cut.json: is cut off or is not JSON (line 1); measure again, or take another file",
        "nowhere.json: not ready",
        "  nowhere.json: cannot be read (No such file or directory); give a file that `jaxprop bench` has written",
    ]


def test_json_is_one_value_on_stdout(jaxprop, package):
    save(device_document(), Path(NAME))
    ran = jaxprop("bench", "check", NAME, "nowhere.json", "--json")
    assert ran.code == 1
    found = json.loads(ran.out)
    assert found["files"][NAME] == []
    assert (found["command"], found["run"]) == ("bench check", None)
    assert len(found["files"]["nowhere.json"]) == 1
