"""The optimizer section: what it accepts, what it refuses, and where it says so."""

import json
import subprocess
import sys

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from jaxprop.config.schema import optimizer as sections
from jaxprop.config.schema import schedules
from jaxprop.config.schema.optax_table import OPTIMIZERS


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    optimizer: sections.OptimizerSection


def parse(**optimizer):
    return Config.model_validate({"optimizer": optimizer}).optimizer


def adamw(**more):
    return {"name": "adamw", "lr": 1e-3, **more}


FULL = adamw(
    weight_decay=0.01,
    mu_dtype="bfloat16",
    schedule={"name": "warmup_cosine", "warmup_steps": 100},
    grad_clip={"norm": 1.0},
    decay_mask=[".*/kernel"],
    groups=[{"match": "head/.*", "lr_scale": 10}, {"match": "embed/.*", "freeze": True}],
)


def test_a_full_section():
    section = parse(**FULL)
    assert (section.name, section.lr, section.weight_decay, section.b1) == ("adamw", 1e-3, 0.01, 0.9)
    assert section.schedule == schedules.WarmupCosine(name="warmup_cosine", warmup_steps=100)
    assert section.grad_clip.norm == 1.0
    assert section.decay_mask == (".*/kernel",)
    assert [group.lr_scale for group in section.groups] == [10.0, 1.0]
    assert set(section.arguments()) == set(OPTIMIZERS["adamw"]["arguments"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_the_defaults_of_the_table(name):
    row = OPTIMIZERS[name]
    given = {"lr": 0.1} if row["lr"][1] is ... else {}
    section = parse(name=name, **given)
    assert section.arguments() == {key: default for key, (_, default) in row["arguments"].items()}
    assert section.lr == given.get("lr", row["lr"][1])


@pytest.mark.parametrize("text", [FULL, {"name": "prodigy"}, {"name": "muon", "lr": 1, "ns_coeffs": [3, -4, 2]}])
def test_a_resolved_section_reads_back_as_itself(text):
    config = Config.model_validate({"optimizer": text})
    assert Config.model_validate(config.model_dump()) == config
    assert Config.model_validate(json.loads(config.model_dump_json())) == config
    assert Config(optimizer=config.optimizer) == config


ERRORS = [
    ({"lr": 0.1}, "optimizer", "discriminator"),
    ({"name": "adm", "lr": 0.1}, "optimizer", "'adm'"),
    ({"name": "mechanize", "lr": 0.1}, "optimizer", "wraps another optimizer"),
    ({"name": "sgd"}, "optimizer.lr", "required"),
    (adamw(lr=0), "optimizer.lr", "greater than 0"),
    (adamw(lr=-1.0), "optimizer.lr", "greater than 0"),
    (adamw(lr="1e-3"), "optimizer.lr", "valid number"),
    (adamw(lr=True), "optimizer.lr", "valid number"),
    (adamw(lr=float("nan")), "optimizer.lr", "finite"),
    (adamw(lr=None), "optimizer.lr", "valid number"),
    (adamw(momentum=0.9), "optimizer.momentum", "Extra"),
    (adamw(b1=1.0), "optimizer.b1", "less than 1"),
    (adamw(b2=-0.1), "optimizer.b2", "greater than or equal to 0"),
    (adamw(eps=0.0), "optimizer.eps", "greater than 0"),
    (adamw(weight_decay=-1e-4), "optimizer.weight_decay", "greater than or equal to 0"),
    (adamw(nesterov=1), "optimizer.nesterov", "boolean"),
    (adamw(mu_dtype="int8"), "optimizer.mu_dtype", "bfloat16"),
    ({"name": "muon", "lr": 1, "ns_steps": 0}, "optimizer.ns_steps", "greater than 0"),
    ({"name": "muon", "lr": 1, "ns_coeffs": [1.0, 2.0]}, "optimizer.ns_coeffs.2", "required"),
    ({"name": "prodigy", "betas": [0.9, 1.5]}, "optimizer.betas.1", "less than 1"),
    ({"name": "sgd", "lr": 1, "nesterov": True}, "optimizer", "momentum"),
    ({"name": "adafactor", "schedule": {"name": "cosine"}}, "optimizer", "give lr"),
    ({"name": "sm3", "lr": 1, "schedule": {"name": "cosine"}}, "optimizer", "no schedule"),
    (adamw(schedule="cosine"), "optimizer.schedule", "dictionary"),
    (adamw(schedule={"name": "cosin"}), "optimizer.schedule", "'cosin'"),
    (adamw(schedule={"warmup_steps": 3}), "optimizer.schedule", "discriminator"),
    (adamw(schedule={"name": "cosine", "steps": 0}), "optimizer.schedule.steps", "greater than 0"),
    (adamw(schedule={"name": "warmup_cosine"}), "optimizer.schedule.warmup_steps", "required"),
    (adamw(schedule={"name": "warmup_cosine", "warmup_steps": 1.5}), "optimizer.schedule.warmup_steps", "integer"),
    (adamw(schedule={"name": "exponential", "decay_rate": 1.5}), "optimizer.schedule.decay_rate", "less than 1"),
    (adamw(schedule={"name": "piecewise", "boundaries": [1, 2], "scales": [0.1]}), "optimizer.schedule", "one scale"),
    (adamw(schedule={"name": "piecewise", "boundaries": [2, 1], "scales": [1, 1]}), "optimizer.schedule", "increasing"),
    (adamw(grad_clip={}), "optimizer.grad_clip", "at least one"),
    (adamw(grad_clip=1.0), "optimizer.grad_clip", "dictionary"),
    (adamw(grad_clip={"norm": 0}), "optimizer.grad_clip.norm", "greater than 0"),
    (adamw(decay_mask="kernels"), "optimizer.decay_mask", "matrices"),
    (adamw(decay_mask=[]), "optimizer.decay_mask", "list of path patterns"),
    (adamw(decay_mask=["*"]), "optimizer.decay_mask", "not a regular expression"),
    ({"name": "adam", "lr": 1, "decay_mask": "matrices"}, "optimizer.decay_mask", "no weight decay"),
    (adamw(groups={"match": "a"}), "optimizer.groups", "tuple"),
    (adamw(groups=[{"freeze": True}]), "optimizer.groups.0.match", "required"),
    (adamw(groups=[{"match": "(", "freeze": True}]), "optimizer.groups.0.match", "not a regular expression"),
    (adamw(groups=[{"match": "a"}]), "optimizer.groups.0", "changes nothing"),
    (adamw(groups=[{"match": "a", "lr_scale": 0}]), "optimizer.groups.0.lr_scale", "greater than 0"),
    (adamw(groups=[{"match": "a", "freeze": True, "lr_scale": 2}]), "optimizer.groups.0", "do nothing"),
    ({"name": "adam", "lr": 1, "groups": [{"match": "a", "weight_decay": 0.1}]}, "optimizer.groups", "no weight decay"),
    ({"name": "fromage", "lr": 1, "groups": [{"match": "a", "lr_scale": 2}]}, "optimizer.groups", "not proportional"),
]


@pytest.mark.parametrize(("text", "path", "fragment"), ERRORS)
def test_bad_input_is_one_error_at_its_dotted_path(text, path, fragment):
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"optimizer": text})
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == path
    assert fragment in error["msg"]


def test_all_errors_come_at_once():
    text = adamw(lr=0, b1=2.0, foo=1, schedule={"name": "cosine", "end": 1}, groups=[{"match": "("}])
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"optimizer": text})
    assert {".".join(map(str, error["loc"])) for error in caught.value.errors()} == {
        "optimizer.lr",
        "optimizer.b1",
        "optimizer.foo",
        "optimizer.schedule.end",
        "optimizer.groups.0.match",
    }


@pytest.mark.parametrize(
    ("schedule", "steps", "fragment"),
    [
        ({"name": "warmup_cosine", "warmup_steps": 10}, 11, None),
        ({"name": "warmup_cosine", "warmup_steps": 10}, 10, "warmup_steps is 10"),
        ({"name": "warmup_cosine", "warmup_steps": 10, "steps": 20}, 5, None),
        ({"name": "warmup_cosine", "warmup_steps": 10, "steps": 9}, 100, "has 9 steps"),
        ({"name": "warmup_stable_decay", "warmup_steps": 4, "decay_steps": 6}, 10, None),
        ({"name": "warmup_stable_decay", "warmup_steps": 4, "decay_steps": 6}, 9, "is 10"),
        ({"name": "one_cycle"}, 4, None),
        ({"name": "one_cycle"}, 3, "less than one step"),
        ({"name": "cosine_restarts", "period": 3, "warmup_steps": 2}, 3, None),
        ({"name": "cosine_restarts", "period": 3, "warmup_steps": 3}, 3, "warmup_steps is 3"),
        ({"name": "constant"}, 1, None),
    ],
)
def test_a_schedule_says_why_it_does_not_fit_the_run(schedule, steps, fragment):
    problem = parse(**adamw(schedule=schedule)).schedule.problem(steps)
    assert problem is None if fragment is None else fragment in problem


def untitled(node):
    if isinstance(node, dict):
        return {key: untitled(value) for key, value in node.items() if key not in ("title", "description")}
    return [untitled(item) for item in node] if isinstance(node, list) else node


def test_the_json_schema_written_from_the_table_is_the_models_own():
    schemas = Config.model_json_schema()["properties"]["optimizer"]["oneOf"]
    written = {one["title"]: one for one in schemas if "title" in one}
    assert list(written) == list(OPTIMIZERS)
    for name, schema in written.items():
        own = sections.optimizer_model(name).model_json_schema()
        for key in ("properties", "required", "additionalProperties"):
            assert untitled(schema[key]) == untitled(own[key]), (name, key)


def test_importing_and_validating_needs_no_jax_and_builds_the_chosen_model_only():
    code = (
        "import sys\n"
        "from pydantic import TypeAdapter\n"
        "from jaxprop.config.schema import optimizer as o\n"
        "TypeAdapter(o.OptimizerSection).validate_python({'name': 'adamw', 'lr': 0.1})\n"
        "assert o.optimizer_model.cache_info().currsize == 1\n"
        "assert not {'jax', 'optax', 'flax'} & set(sys.modules), 'jax was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
