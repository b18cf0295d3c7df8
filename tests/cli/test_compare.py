"""`jaxprop compare`: its tables, its last lines and `--json`."""

import json
from pathlib import Path

from tests.tools.test_compare import make_run


def test_tables_and_sentences(jaxprop):
    for lr, base in ((0.1, 0.8), (0.2, 0.9)):
        for seed, shift in enumerate((0.0, 0.02)):
            make_run(Path("runs") / f"lr{lr}s{seed}", lr=lr, seed=seed, accuracy=base + shift)
    ran = jaxprop("compare", "lr0.1s0", "lr0.1s1", "lr0.2s0", "lr0.2s1")
    assert (ran.code, ran.err) == (0, "")
    lines = [" ".join(line.split()) for line in ran.out.splitlines() if "─" not in line]
    assert lines[:2] == ["run seed status accuracy time", "runs/lr0.1s0 0 completed 0.8 2 s"]
    assert lines[5:8] == [
        "optimizer.lr accuracy 95 % seeds lost", "1 0.2 0.91 ± 0.13 2", "2 0.1 0.81 ± 0.13 2",
    ]  # fmt: skip
    assert lines[8].startswith("best against next (lr=0.1): +0.1, p = ")
    told = json.loads(jaxprop("compare", "lr0.1s0", "lr0.2s0", "--json").out)
    assert (told["command"], told["keys"], len(told["runs"])) == ("compare", ["optimizer.lr"], 2)
    one = jaxprop("compare", "lr0.1s0", "lr0.2s0")
    assert "with one seed in common nobody can tell the best from the next" in one.out


def test_other_examples_are_told_beside_the_figures(jaxprop):
    for name in "ab":
        folder = make_run(Path("runs") / name, seed=ord(name))
        (folder / "prepared.json").write_text(json.dumps({"splits": {"test": name}}))
    ran = jaxprop("compare", "a", "b", "--json")
    assert f"warning: {json.loads(ran.out)['warning']}\n" == ran.err
    assert ran.err.startswith("warning: runs/a and runs/b were evaluated on different examples")


def test_bad_input(jaxprop):
    make_run(Path("runs") / "a")
    assert jaxprop("compare", "a").code == 2
    ran = jaxprop("compare", "a", "b")
    assert (ran.code, ran.out) == (2, "")
    assert "b: there is no such run folder (runs in runs: a)" in ran.err
