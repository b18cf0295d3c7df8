"""`jaxprop sweep`: its table, its JSON, its exit codes, and what bad words are told."""

import json
import os
import subprocess
import sys

import pytest

from jaxprop.run.host import cores

WORDS = ("digits", "run.epochs=null", "run.steps=4", "parallel.devices=1")


def test_a_table_with_the_best_first_and_how_to_use_it(jaxprop):
    ran = jaxprop("sweep", *WORDS, "optimizer.lr=[0.001, 0.3]", "--seeds", "2")
    assert ran.code == 0, ran.err
    rows = [line.split() for line in ran.out.splitlines() if line.strip()[:2] in ("1 ", "2 ")]
    assert [row[:2] for row in rows] == [["1", "0.3"], ["2", "0.001"]]
    assert f"use it with: jaxprop train {' '.join(WORDS)} optimizer.lr=0.3" in ran.out
    assert "over 2 seeds" in ran.out
    assert "[4/4] lr=0.3, seed=1: accuracy 0." in ran.err


def test_json_has_all_settings_and_runs(jaxprop, package):
    ran = jaxprop("sweep", *WORDS, "optimizer.lr=lin(0.1, 0.3, 2)", "--json", "--run", "here")
    found = json.loads(ran.out)
    assert (ran.code, found["command"], found["metric"], found["better"]) == (0, "sweep", "accuracy", "max")
    assert {one["setting"]["optimizer.lr"] for one in found["settings"]} == {0.1, 0.3}
    assert [one["status"] for one in found["runs"]] == ["completed"] * 2
    assert (package.parent / "work" / "here" / "lr=0.1,seed=0" / "summary.json").is_file()
    assert found["settings"][0]["margin"] is None  # of one seed
    assert (found["verdict"]["pairs"], found["verdict"]["p"]) == (1, None)
    stored = json.loads((package.parent / "work" / "here" / "results.json").read_text())
    assert {"command": "sweep", "run": found["run"], **stored} == found


def test_other_examples_are_told_beside_the_figures(jaxprop):
    ran = jaxprop("sweep", *WORDS, "data.validation=[0.1, 0.3]", "--run", "here")
    said = "validation=0.1,seed=0 and validation=0.3,seed=0 were evaluated on different examples"
    assert ran.code == 0
    assert f"warning: {said}" in ran.err
    assert said in json.loads(jaxprop("report", "here", "--json").out)["sweep"]["warning"]
    assert jaxprop("sweep", *WORDS, "model.dropout=[0, 0.3]").err.count("warning: ") == 0


def test_one_seed_is_no_proof(jaxprop):
    ran = jaxprop("sweep", *WORDS, "optimizer.lr=[0.1, 0.3]")
    assert "with one seed nobody can tell the best from the next; --seeds 3" in ran.out
    again = jaxprop("sweep", *WORDS, "optimizer.lr=[0.1, 0.3]", "-q")
    assert again.out.startswith("use it with: jaxprop train digits")
    assert (len(again.out.splitlines()), again.err) == (1, "")


def test_where_no_run_ends_well_the_exit_code_says_so(jaxprop):
    wrong = [{"match": "nope", "lr_scale": 2}]
    ran = jaxprop("sweep", *WORDS, f"optimizer.groups=[{json.dumps(wrong)}]")
    assert ran.code == 1
    assert "no setting can be recommended" in ran.out
    assert "'nope' matches no parameter" in ran.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digits",), "nothing is varied"),
        (("digits", "optimizer.lr=log(1, 0.1, 3)"), "low < high"),
        (("digits", "optimizer.rate=[1, 2]"), "optimizer.rate"),
        (
            ("digits", "optimizer.lr=[0.1, 0.2]", "--lanes", "many"),
            "--lanes: expected auto or a number from 1 to 10,000",
        ),
        (("digits", "optimizer.lr=[0.1, 0.2]", "--lanes", "0"), "--lanes: expected auto or a number from 1 to 10,000"),
        (("digits", "optimizer.lr=[0.1, 0.2]", "--processes", "0"), "--processes: expected auto or a number from 1 to"),
        (("digits", "optimizer.lr=[0.1, 0.2]", "--metric", "acuracy", "run.epochs=null", "run.steps=1"), "acuracy"),
        (("nothing.yaml", "optimizer.lr=[0.1, 0.2]"), "nothing.yaml"),
    ],
)
def test_bad_words_are_one_sentence(jaxprop, words, message):
    ran = jaxprop("sweep", *words)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err.splitlines()[-1]
    assert "Traceback" not in ran.err


@pytest.mark.timeout(240)
def test_what_is_compiled_is_kept_for_each_number_of_cores(tmp_path):
    """That of a process of the sweep apart from that of the command, which has all cores."""
    values, steps = "optimizer.lr=[0.1, 0.2]", ["run.epochs=null", "run.steps=1", "optimizer.schedule.warmup_steps=0"]
    kept = {"JAXPROP_COMPILE_CACHE": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def swept(processes):
        words = ["sweep", "digits_mlp", values, *steps, "--processes", processes, "--run", str(tmp_path / processes)]
        command = [sys.executable, "-m", "jaxprop", *words]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=os.environ | kept)
        return {path.parent for path in (tmp_path / "cache").rglob("*-cache")}

    first = swept("1")
    assert len(first) == 1
    assert len(swept("2")) == (2 if cores() > 1 else 1)
