"""Which configuration may go on with a run: how it is made longer, and what is told where that is refused."""

import json

import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.config.schema.fit import Settings
from jaxprop.errors import UsageError
from jaxprop.run.resume import resume_note
from jaxprop.run.train import train

COSINE = {"name": "cosine"}
ADAMW = {"name": "adamw", "lr": 3e-2}


def config(folder, run, schedule, groups=()):
    return build(
        {
            "task": {"name": "classify"},
            "data": {"name": "arrays", "train": str(folder / "train.npz"), "batch_size": 8, "prefetch": 0},
            "model": {"name": "mlp", "hidden": [4]},
            "optimizer": {"name": "sgd", "lr": 0.1, "schedule": schedule, "groups": list(groups)},
            "parallel": {"devices": 1},
            "health": {"layers": False, "watch": False},
            "run": {**run, "log_every": 1},
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    inputs = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    np.savez(folder / "train.npz", inputs=inputs, labels=np.arange(20) % 3)
    return folder


@pytest.mark.parametrize(
    ("first", "longer"),
    [
        (({"steps": 4}, {"name": "cosine", "steps": 4}), ({"steps": 6}, {"name": "cosine", "steps": 4})),
        (({"steps": 4}, COSINE), ({"steps": 6}, {"name": "cosine", "steps": 4})),
        (({"epochs": 2}, COSINE), ({"epochs": 3}, {"name": "cosine", "steps": 6})),  # 3 steps an epoch
    ],
    ids=["a length of its own", "the length it has had", "a length that only the run knows"],
)
def test_a_run_is_made_longer_with_the_rates_it_has_had(data, tmp_path, first, longer):
    train(config(data, *first), tmp_path / "run", quiet=True)
    outcome = train(config(data, *longer), tmp_path / "run", quiet=True)
    whole = train(config(data, *longer), tmp_path / "whole", quiet=True)
    assert outcome.summary["step"] == whole.summary["step"] == longer[0].get("steps", 9)
    records = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("run", "whole")]
    losses = [[line.partition('"loss": ')[2].partition(",")[0] for line in lines] for lines in records]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("first", "longer", "how"),
    [
        (
            ({"steps": 4}, COSINE),
            {"steps": 6},
            "run.steps: 4 -> 6\nthe schedule cosine is as long as the run, so another length changes the rates of all "
            "steps; add optimizer.schedule.steps=4 to keep them and go on from where the schedule ends, where the rate "
            "is 0, or\nuse --run DIR",
        ),
        (({"epochs": 2}, {"name": "linear", "end_scale": 0.1}), {"epochs": 3}, "schedule ends, or\nuse --run DIR"),
        (
            ({"epochs": 2}, {"name": "exponential", "decay_rate": 0.5}),
            {"epochs": 3},
            "add optimizer.schedule.decay_steps=6 to keep them and go on from where the schedule ends, or\n",
        ),
    ],
)
def test_the_refusal_says_how(data, tmp_path, first, longer, how):
    train(config(data, *first), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError) as caught:
        train(config(data, longer, first[1]), tmp_path / "run", quiet=True)
    assert how in str(caught.value)
    (tmp_path / "run" / "summary.json").unlink()  # as of a run that was interrupted
    with pytest.raises(UsageError, match="another length changes the rates of all steps"):
        train(config(data, longer, first[1]), tmp_path / "run", quiet=True)


GROUPS = [
    {
        "match": "layers/.*/kernel",
        "optimizer": {"name": "muon", "lr": 0.02, "schedule": {**COSINE, "steps": 8}},
    },
    {"match": "head/.*", "optimizer": {"name": "adamw", "lr": 3e-2, "grad_clip": {"norm": 0.5}}},
]


def test_a_run_whose_groups_have_optimizers_goes_on_with_the_same_bits(data, tmp_path):
    constant = {"name": "constant"}
    train(config(data, {"steps": 3}, constant, GROUPS), tmp_path / "run", quiet=True)
    train(config(data, {"steps": 6}, constant, GROUPS), tmp_path / "run", quiet=True)
    train(config(data, {"steps": 6}, constant, GROUPS), tmp_path / "whole", quiet=True)
    files = [tmp_path / name / "checkpoints" / "6" / "manifest.json" for name in ("run", "whole")]
    first, whole = (json.loads(file.read_text()) for file in files)
    assert len(whole["digests"]) == len(whole["leaves"])
    assert first["digests"] == whole["digests"]
    assert any(path.startswith("opt_state/inner_states/group0/") for path, _ in whole["leaves"])


def test_the_schedule_of_a_group_may_be_as_long_as_the_run_too(data, tmp_path):
    groups = [{"match": "head/.*", "optimizer": {"name": "adamw", "lr": 3e-2, "schedule": COSINE}}]
    constant = {"name": "constant"}
    train(config(data, {"steps": 4}, constant, groups), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError) as caught:
        train(config(data, {"steps": 6}, constant, groups), tmp_path / "run", quiet=True)
    key = "optimizer.groups.0.optimizer.schedule.steps=4"
    assert f"another length changes the rates of all steps; add {key} to keep them" in str(caught.value)
    groups[0]["optimizer"]["schedule"] = {"name": "cosine", "steps": 4}
    outcome = train(config(data, {"steps": 6}, constant, groups), tmp_path / "run", quiet=True)
    assert outcome.summary["step"] == 6
    assert f"together with {key}, since" in resume_note(
        4, 4, config(data, {"steps": 4}, constant, [{**groups[0], "optimizer": {**ADAMW, "schedule": COSINE}}])
    )


def test_what_a_finished_run_needs_for_more(data):
    done = resume_note(4, 4, config(data, {"steps": 4}, {"name": "constant"}))
    assert done == "all 4 steps are done already; raise run.steps or run.epochs for more, or start over with --fresh"
    assert "more together with optimizer.schedule.steps=4, since" in resume_note(
        4, 4, config(data, {"steps": 4}, COSINE)
    )
    assert resume_note(3, 4, config(data, {"steps": 4}, COSINE)) == "resumed from step 3"
    fitted = resume_note(4, 4, Settings(run={"steps": 4}))
    assert fitted == "all 4 steps are done already; give fit more steps, or fresh=True to start over"
