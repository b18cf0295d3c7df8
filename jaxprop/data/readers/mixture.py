"""The reader `mixture`: several sources of data, one after another, for a stream that mixes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxprop.config.schema.data import Mixture
from jaxprop.config.tasks import tasks_for
from jaxprop.data.alike import Alike, class_names, conformed, open_alike, read_alike, with_classes
from jaxprop.data.fingerprint import fingerprint
from jaxprop.errors import DataError
from jaxprop.types import Reader, Source

LENGTHS = "lengths"  # of `Source.info`: number of examples of each source
_SAME = ("classes", "class_names", "targets")  # of what sources say, what has to be the same for all
_ADDED = ("bytes", "documents")  # what is counted over all
_SIZES = ("classes", "class_names", "characters", "vocabulary")  # of a run, what all sources are prepared by
_SHARED = ("tokenizer", "mean", "std")  # of what the first source has learned, what tasks look for
# Arrays whose second axis is as long as the longest of a source, and padded with 0, by task.
PADDED = {"detect": ("boxes", "labels", "mask", "crowd"), "transcribe": ("inputs", "labels")}
# Settings of a source that say what is learned of its data, or how it is prepared.
_SETTINGS = (
    "target", "categorical", "missing", "categories", "max_categories", "standardize", "classes", "size", "resample",
    "channels",
)  # fmt: skip
# Of what a source has prepared, what is its own, and the sizes and names that `_check_same` compares.
_OF_EACH = (
    "left_out",
    "shapes",
    "classes",
    "vocabulary",
    "targets",
    "class_names",
    "target_names",
    "tokenizer",
    "length",
)
_Open = Callable[[Any, str, Mapping[str, Any] | None], dict[str, Source]]


def mixture_of(open_one: _Open, readers: Mapping[str, Reader]) -> Reader:
    """Returns the reader of mixtures.

    Args:
      open_one: opens one of the sources, as `jaxprop.data.open_sources` does.
      readers: by name; of the first source, the one that reads what is to be predicted.
    """

    def opened(section: Mixture, task: str, prepared: Mapping[str, Any] | None) -> dict[str, Source]:
        return open_mixture(section, task, prepared, open_one, readers)

    def inputs(
        section: Mixture, task: str, prepared: Mapping[str, Any], paths: Sequence[str]
    ) -> Source | Iterable[Source]:
        first = section.sources[0]
        read = readers[first.name].inputs
        if read is None:
            raise DataError(
                f"data {first.name!r}, the first source of the mixture, has no files that could be predicted"
            )
        return read(first, task, prepared["sources"][0], paths)

    return Reader(open=opened, inputs=inputs)


def open_mixture(
    section: Mixture,
    task: str,
    prepared: Mapping[str, Any] | None,
    open_one: _Open,
    readers: Mapping[str, Reader],
) -> dict[str, Source]:
    """Opens the sources of a mixture, and puts the examples of each split one after another.

    What is learned of training data, such as their mean, the categories of a column and the classes, is learned of the
    training data of all sources, so that a mixture of two files is prepared as one file of both.

    Args:
      section: the config's `data` section. A `validation` that is a fraction holds for each source without its own.
      task: its name.
      prepared: of an earlier run.
      open_one: opens one of the sources.
      readers: by name.

    Returns:
      `train`, whose `info["lengths"]` says how many examples each source has; and `validation` and `test` of all
      sources that have such.

    Raises:
      DataError: the sources do not fit each other.
    """
    sections = [_held_out_of(one, section) for one in section.sources]
    names = [one.name for one in sections]
    alike = None
    if prepared is not None:
        opened = [open_one(one, task, known) for one, known in zip(sections, prepared["sources"], strict=True)]
        if (sizes := prepared.get("sizes")) is not None:
            opened = [{name: conformed(one, sizes, task) for name, one in of.items()} for of in opened]
    elif section.prepared_by is not None:
        alike = with_classes(read_alike(section.prepared_by), section.new_classes, task)
        opened = [open_alike(open_one, one, task, alike) for one in sections]
    elif len(set(names)) == 1 and task in tasks_for(names[0]) and (together := readers[names[0]].together) is not None:
        _check_settings(sections)
        opened = together(sections, task)
    else:
        opened = [open_one(one, task, None) for one in sections]
    splits = {
        name: [sources[name] for sources in opened if name in sources] for name in ("train", "validation", "test")
    }
    each = [dict(next(iter(sources.values())).prepared) for sources in opened]
    _check_tokenizers(names, each)
    if prepared is None and alike is None:
        _check_prepared(names, each)
    learned = {"sources": each, **{key: each[0][key] for key in _SHARED if key in each[0]}}
    sizes = _sizes(alike, task) if prepared is None else prepared.get("sizes")
    learned |= {"sizes": sizes} if sizes else {}
    splits = {name: _padded(parts, task) for name, parts in splits.items()}
    for parts in splits.values():
        _check_same(names, parts)
    if len(splits["train"]) < len(opened):
        splits["train"] = []  # of a run that is only used, where some are gone
    return {name: _joined(parts, learned) for name, parts in splits.items() if parts}


def _sizes(alike: Alike | None, task: str) -> dict[str, Any]:
    if alike is None or class_names(alike.info, task) is None:
        return {}
    return {key: alike.info[key] for key in _SIZES if key in alike.info}


def _padded(parts: Sequence[Source], task: str) -> list[Source]:
    """Sources whose arrays are as long as the longest of all, where a task knows how long each example is."""
    keys = PADDED.get(task, ())
    examples = [part.take(np.zeros(1, np.int64)) for part in parts]
    keys = tuple(key for key in keys if any(key in one for one in examples))
    lengths = {key: max(one[key].shape[1] for one in examples if key in one) for key in keys}
    shapes = [{key: one[key].shape[1] for key in keys if key in one} for one in examples]  # without what one lacks
    if all(one == lengths for one in shapes):
        return list(parts)
    dtypes = {key: next(one[key].dtype for one in examples if key in one) for key in keys}
    return [part._replace(take=_padding(part.take, lengths, dtypes)) for part in parts]


def _padding(
    take: Callable[[np.ndarray], dict[str, np.ndarray]], lengths: Mapping[str, int], dtypes: Mapping[str, np.dtype]
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    def padded(indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = dict(take(indices))
        for key, dtype in dtypes.items():
            given = batch.get(key)
            if given is None:  # such as crowds, of which a source may know nothing
                batch[key] = np.zeros((len(indices), lengths[key]), dtype)
            elif given.shape[1] < lengths[key]:
                rest = np.zeros((len(given), lengths[key] - given.shape[1], *given.shape[2:]), given.dtype)
                batch[key] = np.concatenate([given, rest], 1)
        return batch

    return padded


def _held_out_of(one: Any, section: Mixture) -> Any:
    """A section with the mixture's fraction of validation, unless it has a validation of its own."""
    if one.validation is not None or section.validation is None:
        return one
    return one.model_copy(update={"validation": section.validation, "split_seed": section.split_seed})


def _check_settings(sections: Sequence[Any]) -> None:
    """Settings that say what is learned of the data have to be the same in each source."""
    for key in _SETTINGS:
        first = getattr(sections[0], key, None)
        for number, one in enumerate(sections):
            if getattr(one, key, None) != first:
                raise DataError(
                    f"data.sources.{number}.{key}: is {_value(getattr(one, key))}, but data.sources.0.{key} is "
                    f"{_value(first)}; set both to the same, as all sources are prepared alike"
                )


def _value(setting: Any) -> str:
    return json.dumps(setting) if setting is not None else "not set"


def _check_prepared(names: Sequence[str], each: Sequence[Mapping[str, Any]]) -> None:
    """What sources of several kinds have learned cannot be combined, and has to be the same."""
    for number, (name, one) in enumerate(zip(names, each, strict=True)):
        for key in sorted({*one, *each[0]} - set(_OF_EACH)):
            if one.get(key) != each[0].get(key):
                raise DataError(
                    f"data.sources.{number} ({name}): is prepared by another {key} than data.sources.0 ({names[0]}), "
                    "so that the same numbers would stand for something else; write both in one format that the same "
                    "data.name reads, or put their records into one file"
                )


def _check_tokenizers(names: Sequence[str], learned: Sequence[Mapping[str, Any]]) -> None:
    """Of texts, a token has to stand for the same in each source."""
    first = learned[0].get("tokenizer")
    for number, (name, one) in enumerate(zip(names, learned, strict=True)):
        if one.get("tokenizer") != first:
            raise DataError(
                f"data.sources.{number} ({name}): has another tokenizer than data.sources.0 ({names[0]}), so that its "
                f"tokens stand for other text; set data.sources.{number}.tokenizer and data.sources.0.tokenizer to the "
                "same file, or to bytes"
            )


def _check_same(names: Sequence[str], parts: Sequence[Source]) -> None:
    """Sources can be mixed whose examples have the same arrays and the same classes."""
    examples = [
        {name: (x.shape[1:], x.dtype) for name, x in part.take(np.zeros(1, np.int64)).items()} for part in parts
    ]
    for number, (part, example) in enumerate(zip(parts, examples, strict=True)):
        here, first = f"data.sources.{number} ({names[number]})", f"data.sources.0 ({names[0]})"
        for name in sorted({*example, *examples[0]} - {"weight"}):
            if example.get(name) != examples[0].get(name):
                raise DataError(
                    f"{here}: has {name} {_shown(example.get(name))}, but {first} {_shown(examples[0].get(name))}; "
                    "sources that are mixed need examples of one shape"
                )
        for key in _SAME:
            if part.info.get(key) != parts[0].info.get(key):
                raise DataError(
                    f"{here}: has the {key.replace('_', ' ')} {part.info.get(key)}, but {first} "
                    f"{parts[0].info.get(key)}; sources that are mixed need the same"
                )


def _shown(found: tuple[tuple[int, ...], np.dtype] | None) -> str:
    return "none" if found is None else f"of shape {found[0]} and dtype {found[1]}"


def join(parts: Sequence[Source], task: str) -> Source:
    """Returns the examples of sources that were prepared alike, one after another.

    Args:
      parts: the sources.
      task: the task's name.
    """
    if len(parts) == 1:
        return parts[0]
    return _joined(_padded(parts, task), parts[0].prepared)


def _joined(parts: Sequence[Source], learned: Mapping[str, Any]) -> Source:
    lengths = [part.length for part in parts]
    ends = np.cumsum(lengths)
    weighted = any("weight" in part.take(np.zeros(1, np.int64)) for part in parts)

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        of = np.searchsorted(ends, indices, side="right")
        slots_of = {k: np.flatnonzero(of == k) for k in np.unique(of).tolist()}
        taken = {k: dict(parts[k].take(indices[s] - (int(ends[k]) - lengths[k]))) for k, s in slots_of.items()}
        # A source may give weights only in batches that have a damaged record.
        some = weighted or any("weight" in values for values in taken.values())
        batch: dict[str, np.ndarray] = {}
        for k, slots in slots_of.items():
            if some:
                taken[k].setdefault("weight", np.ones(len(slots), np.float32))
            for name, values in taken[k].items():
                batch.setdefault(name, np.zeros((len(indices), *values.shape[1:]), values.dtype))[slots] = values
        return batch

    # A unigram model's loss is that of one source; of several it is not known.
    info = {key: value for key, value in parts[0].info.items() if key not in ("notes", "unigram_nats")}
    info |= {key: max(part.info[key] for part in parts) for key in ("vocabulary",) if key in info}
    info |= {key: sum(part.info[key] for part in parts) for key in _ADDED if all(key in part.info for part in parts)}
    notes = [note for part in parts for note in part.info.get("notes", ())]
    return Source(
        length=int(ends[-1]),
        take=take,
        info=info | {LENGTHS: lengths} | ({"notes": notes} if notes else {}),
        fingerprint=fingerprint("mixture", *(part.fingerprint for part in parts)),
        prepared=learned,
        labels=_labels(parts),
        names=_names(parts, lengths, ends) if any(part.names is not None for part in parts) else None,
    )


def _names(parts: Sequence[Source], lengths: Sequence[int], ends: np.ndarray) -> Callable[[np.ndarray], list[str]]:
    def name(index: int) -> str:
        k = int(np.searchsorted(ends, index, side="right"))
        at, names = index - (int(ends[k]) - lengths[k]), parts[k].names
        return f"example {at} of source {k}" if names is None else names(np.array([at]))[0]

    return lambda indices: [name(index) for index in indices.tolist()]


def _labels(parts: Sequence[Source]) -> Callable[[], np.ndarray] | None:
    known = [part.labels for part in parts if part.labels is not None]
    return (lambda: np.concatenate([labels() for labels in known])) if len(known) == len(parts) else None
