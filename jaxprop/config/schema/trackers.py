"""The keys `wandb`, `trackio` and `mlflow` of the section `sinks`. Imports no jax."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from jaxprop.config.schema.base import Section, Text

NOT_IN_PROJECTS = "/\\#?%:"  # W&B refuses these, and Trackio names a file after its project


def _project(name: str) -> str:
    found = [c for c in dict.fromkeys(name) if c in NOT_IN_PROJECTS or not c.isprintable()]
    if found or not name.strip():
        raise ValueError(
            f"expected the name of a project, without the characters {' '.join(NOT_IN_PROJECTS)} and line breaks, got "
            f"{name!r}; {''.join('-' if c in found else c for c in name).strip() or 'jaxprop'!r} will do"
        )
    return name


Name = Annotated[Text, Field(max_length=128)]
Project = Annotated[Name, AfterValidator(_project)]


class Tracked(Section):
    """What every tracker can be told."""

    project: Project = Field("jaxprop", description="project that the run belongs to; MLflow calls it an experiment")
    name: Name | None = Field(None, description="name of the run there; default: that of the run's folder")
    layers: bool = Field(False, description="send the signals of every layer, too, which are many")


class Wandb(Tracked):
    """Weights & Biases."""

    entity: Name | None = Field(None, description="user or team that the project belongs to; default: yours")
    mode: Literal["online", "offline"] | None = Field(
        None,
        description="offline writes to the run's folder, for `wandb sync`; default: as WANDB_MODE says, else online",
    )


class Trackio(Tracked):
    """Trackio, whose files lie in its own folder, `TRACKIO_DIR`."""


class Mlflow(Tracked):
    """MLflow."""

    tracking_uri: Text | None = Field(
        None,
        description="where MLflow keeps runs, such as http://host:5000 or sqlite:///mlflow.db; default: as "
        "MLFLOW_TRACKING_URI says, else MLflow's own, in the working directory",
    )
