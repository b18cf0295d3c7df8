"""The card of a run: what was trained, how long it took, what came of it, and its whole configuration. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxprop.report.fields import nested, number, text, whole
from jaxprop.report.read import RunData
from jaxprop.sinks.console import duration

MOST_KEYS = 400  # keys of a configuration that are shown
LONGEST = 300  # characters of a value
VERSIONS = ("jaxprop", "jax", "python")


class Card(NamedTuple):
    """A run in a few lines.

    Args:
      facts: labels and their texts.
      config: dotted keys of the configuration and their values.
    """

    facts: list[tuple[str, str]]
    config: list[tuple[str, str]]


def card(run: RunData) -> Card:
    """Returns the card of a run; what its files do not say is left out.

    Args:
      run: the contents of its folder.
    """
    keys = [(key, value[:LONGEST]) for key, value in flat(run.config)]
    return Card([(label, said) for label, said in _facts(run) if said], keys[:MOST_KEYS])


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields the dotted keys of nested mappings, with their values as text.

    Example:
      >>> list(flat({"optimizer": {"name": "sgd", "lr": 0.1}, "model": {"hidden": [8, 8]}}))
      [('optimizer.name', 'sgd'), ('optimizer.lr', '0.1'), ('model.hidden', '[8, 8]')]
    """
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value if isinstance(value, str) else json.dumps(value, default=str)


def _facts(run: RunData) -> Iterator[tuple[str, str]]:
    summary = run.summary or {}
    parameters = whole(summary.get("parameters"))
    size = "" if parameters is None else f"{parameters:,} parameters"
    yield "model", _joined(_named(run, "model"), size)
    yield "data", _joined(_named(run, "data"), _given(run, "data", "batch_size", "batch size {}"))
    yield (
        "optimizer",
        _joined(
            _named(run, "optimizer"),
            _given(run, "optimizer", "lr", "lr {}"),
            text(nested(run.config, "optimizer", "schedule", "name")),
            _given(run, "run", "seed", "seed {}"),
        ),
    )
    yield "time", _time(summary)
    yield "result", _figures(summary.get("metrics"))
    best = summary.get("best")
    step = whole(nested(best, "step"))
    yield "best", _joined(_figures(best), "" if step is None else f"at step {step:,}")
    yield "reference", _figures(summary.get("reference"))
    test = summary.get("test")
    step = whole(nested(test, "step"))
    yield "test", _joined(_figures(test), "" if step is None else f"of the best checkpoint, step {step:,}")
    versions = {name: text(nested(summary.get("versions"), name)) for name in VERSIONS}
    yield "versions", _joined(*(f"{name} {version}" for name, version in versions.items() if version))


def _time(summary: Mapping[str, Any]) -> str:
    seconds, compiling = number(summary.get("seconds")), number(summary.get("compile_seconds"))
    if seconds is None:
        return ""
    rate, session = number(summary.get("examples_per_second")), number(summary.get("session_seconds"))
    return _joined(
        duration(seconds),
        "" if session is None else f"the last session {duration(session)}",
        "" if compiling is None else f"of which {duration(compiling)} compiling",
        "" if rate is None else f"{rate:,.0f} examples/s",
    )


def _figures(values: Any) -> str:
    """Metrics by name, the loss first."""
    if not isinstance(values, dict):
        return ""
    names = sorted((name for name in values if name != "step"), key=lambda name: name != "loss")
    shown = {name: number(values[name]) for name in names}
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in shown.items() if value is not None)


def _named(run: RunData, section: str) -> str:
    return text(nested(run.config, section, "name"))


def _given(run: RunData, section: str, key: str, form: str) -> str:
    value = nested(run.config, section, key)
    return form.format(value) if number(value) is not None else ""


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
