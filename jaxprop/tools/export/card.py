"""The model card beside an exported model: what it is, how good, made of what, and how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxprop.data.readers.table.described import encoded, sample
from jaxprop.data.readers.table.values import MISSING
from jaxprop.run.loaded import LoadedRun
from jaxprop.tools.export.format import Made
from jaxprop.version import versions

MANY = 40  # names of classes that are listed
LONG = 4000  # characters of the preparation that are shown; all of it is in prepared.json


def card(run: LoadedRun, name: str, made: Made, features: Sequence[Mapping[str, Any]] = ()) -> str:
    """Returns the text of `README.md`.

    Args:
      run: what was exported.
      name: of the format.
      made: the exported model.
      features: of a table, as of `jaxprop.data.readers.table.described.described`.
    """
    prepared = _features(run, features) if features else _prepared(run)
    parts = (_head(run, name), _figures(run), _arrays(made), _data(run), prepared, _loading(made), _versions())
    return "\n".join(line for part in parts for line in part)


def _head(run: LoadedRun, name: str) -> Iterator[str]:
    config, opened = run.opened.config, run.opened
    yield from ("---", "library_name: jax", f"tags: [jaxprop, {config.task.name}, {name}]", "---", "")
    yield from (f"# {run.folder.name}", "")
    yield f"A model `{config.model.name}` for the task `{config.task.name}`,"
    yield f"trained with jaxprop on `{config.data.name}` data."
    average = f" {_weights(run)}" if config.run.averages else ""
    yield f"It is the {opened.which} checkpoint, of step {opened.step:,}.{average}"
    yield ""


def _weights(run: LoadedRun) -> str:
    names = run.opened.config.run.averages
    if run.trained:
        return "Its weights are the trained ones, and its figures those of their average."
    if run.average is not None:
        best = run.opened.config.checkpoint.best or "loss"
        told = f"its own figure is `{best}/{run.average}`, and the others are those of the average that was best"
        return f"Its weights are the average `{run.average}`: {told}."
    if len(names) == 1:
        return "Its weights are the moving average that evaluations used."
    return f"Its weights are that of the averages {', '.join(names)} which was best."


def _figures(run: LoadedRun) -> Iterator[str]:
    summary = run.summary or {}
    evaluated = next((r for r in reversed(_evaluations(run)) if r["step"] == run.step), None)
    columns = {f"evaluation at step {run.step}": evaluated, "test split": summary.get("test")}
    columns |= {"reference": summary.get("reference")}
    held = {title: figures for title, figures in columns.items() if figures}
    names = list(dict.fromkeys(name for figures in held.values() for name in figures if name != "step"))
    if not names:
        return
    yield from (
        "## Figures",
        "",
        *_rows(["", *held], ([n, *(_cell(f.get(n)) for f in held.values())] for n in names)),
        "",
    )


def _evaluations(run: LoadedRun) -> list[dict[str, Any]]:
    columns = run.metrics
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    kept = [row for row in rows if row["split"] == "eval"]
    return [{k: v for k, v in row.items() if k != "split" and v is not None and v == v} for row in kept]


def _arrays(made: Made) -> Iterator[str]:
    for title, arrays in (("Inputs", made.inputs), ("Outputs", made.outputs)):
        if arrays:
            rows = ([f"`{name}`", dtype, _shape(shape)] for name, (shape, dtype) in arrays.items())
            yield from (f"## {title}", "", *_rows(["array", "dtype", "shape"], rows), "")
    yield from made.notes
    if made.notes:
        yield ""


def _data(run: LoadedRun) -> Iterator[str]:
    held = run.opened.prepared
    yield from ("## Training data", "")
    yield from (f"- {held.length:,} examples of `{run.opened.config.data.name}`", f"- fingerprint `{held.fingerprint}`")
    for what in ("class_names", "target_names"):
        names = list(held.info.get(what) or ())
        if names:
            more = f", and {len(names) - MANY} more" if len(names) > MANY else ""
            yield f"- {what.replace('_', ' ')}, in order: {', '.join(map(str, names[:MANY]))}{more}"
    yield ""


def _prepared(run: LoadedRun) -> Iterator[str]:
    held = run.opened.prepared
    yield from ("## Preparing inputs", "")
    if not held.prepared:
        yield from ("The model takes inputs as the data hold them; nothing was learned to prepare them.", "")
        return
    text = json.dumps(dict(held.prepared), indent=1)
    yield "What the training data were prepared by, from `prepared.json`:"
    yield from ("", "```json", text[:LONG] + ("\n..." if len(text) > LONG else ""), "```", "")


def _features(run: LoadedRun, features: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    missing = ", ".join(f"`{text}`" for text in MISSING if text)
    yield from ("## Preparing inputs", "")
    yield "A row of a table becomes these values, in this order; `prepared.json` has the same list as `features`."
    yield "White space around a text is no part of it, true and false are the texts `true` and `false`, and a value is"
    yield f"missing where there is none, or one of {missing}."
    yield ""
    rows = ([f"`{f['array']}[:, {f['at']}]`", f["column"], f["kind"], f["how"]] for f in features)
    yield from (*_rows(["entry", "column", "kind", "value"], rows), "")
    row = sample(features)
    arrays = encoded(features, row)
    held = {name: values[0].tolist() for name, values in run.predict(arrays).items()}
    yield from ("The row", "", "```json", json.dumps(row, ensure_ascii=False), "```", "", "becomes", "", "```json")
    yield json.dumps({name: [[float(f"{v:.7g}") for v in values[0].tolist()]] if values.dtype.kind == "f"
                      else values.tolist() for name, values in arrays.items()})  # fmt: skip
    yield from ("```", "", "and the predictions of the run are", "", "```json", json.dumps(held), "```", "")


def _loading(made: Made) -> Iterator[str]:
    yield from ("## Loading", "", "```python", made.loading.rstrip("\n"), "```", "")


def _versions() -> Iterator[str]:
    yield from ("## Versions", "", ", ".join(f"{name} {version}" for name, version in versions().items()), "")


def _rows(headers: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    for row in (headers, ["---"] * len(headers), *rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("N" if size is None else str(size) for size in shape) + "]"
