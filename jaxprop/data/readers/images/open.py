"""The reader `images`: records of any layout become sources of standardized images, checked before training."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprop.config.schema.data import DataSection, Images, ImageSection
from jaxprop.data.bad import BadInputs, BadRecords
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.readers.images.decode import MAX_BYTES, SUFFIXES, Form, UnreadableError, decode
from jaxprop.data.readers.images.folder import images_below, records_of
from jaxprop.data.readers.images.labels import Labels, encode, joined, names_of
from jaxprop.data.readers.images.layouts import check_there, read_layout
from jaxprop.data.readers.images.pixels import Pixels, common_form, sample_of, statistics
from jaxprop.data.readers.images.records import Columns, Records
from jaxprop.data.splits import held_out
from jaxprop.data.standard_input import STDIN
from jaxprop.data.stored import as_bytes, standardized
from jaxprop.errors import DataError
from jaxprop.types import Reader, Source

_SPLITS = ("train", "validation", "test")
_MIB = 2**20


class Unread(NamedTuple):
    """A split before it is read.

    Args:
      path: its name in messages.
      read: returns its records.
    """

    path: str
    read: Callable[[], Records]


class Learned(NamedTuple):
    """What the training images have taught, and prepares all others: a reader's `prepared`.

    Args:
      size: height and width of every image.
      channels: 1 or 3.
      resample: the filter for images of another size, or None where these are refused.
      mean: of each channel of the training images, in 0..1.
      std: the standard deviation.
      class_names: in the order of the classes' numbers; empty to regress.
      left_out: indices of the training records that cannot be used.
    """

    size: tuple[int, int]
    channels: int
    resample: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    left_out: tuple[int, ...]

    @property
    def form(self) -> Form:
        """What every image becomes."""
        return Form(self.size, self.channels, self.resample)


class Split(NamedTuple):
    """The images of a split that can be used.

    Args:
      records: all images of the split.
      labels: which of them are used, and their labels.
      pixels: the decoded images.
      bad: those that cannot be used.
      told: of images that were decoded too late to be left out, those that `bad` knows of.
    """

    records: Records
    labels: Labels
    pixels: Pixels
    bad: BadRecords
    told: set[int]

    def tell(self) -> None:
        """Counts the images that have turned out to be bad since the last time."""
        for row in sorted(set(self.pixels.failed) - self.told):
            self.told.add(row)
            self.bad.add(self.records.name(row), self.pixels.failed[row])


def open_images(section: Images, task: str, prepared: Mapping[str, Any] | None = None) -> dict[str, Source]:
    """Opens images with their labels.

    Args:
      section: the config's `data` section; paths are relative to the current directory.
      task: `classify`, `multilabel` or `regress`.
      prepared: of an earlier run, whose classes, size and statistics are used; its training images may be missing.

    Returns:
      `train`, and `validation` and `test` where the section names them. Batches have inputs float32 `[B, H, W, C]`,
      values in 0..1 standardized by the mean and the standard deviation of each channel over the training images, and
      labels int32 `[B]`, or float32 `[B, K]` to regress and for multilabel.

    Raises:
      DataError: the images are missing, or more of them are bad than `data.max_bad_fraction` allows.

    Example:
      >>> import tempfile
      >>> root = Path(tempfile.mkdtemp())
      >>> for name in ("cat", "dog"):
      ...     (root / name).mkdir()
      ...     _ = (root / name / "1.pgm").write_bytes(b"P5 2 2 255 " + name.encode() + b"!")
      >>> train = open_images(Images(name="images", train=str(root)), "classify")["train"]
      >>> train.length, train.info["class_names"], train.take(np.array([1, 0]))["inputs"].shape
      (2, ['cat', 'dog'], (2, 2, 2, 1))
    """
    return open_records(section, task, prepared, _unread(section, there=prepared is not None))


def open_images_together(sections: Sequence[Images], task: str) -> list[dict[str, Source]]:
    """Opens several sections whose images are prepared alike; see `open_images` and `jaxprop.Reader`."""
    return records_together(sections, task, [_unread(section) for section in sections])


def _unread(section: Images, *, there: bool = False) -> dict[str, Unread]:
    """What a section names; training images that are gone are left out where `there` says that a run was trained."""
    columns = Columns(section.image_column, section.label_column, section.root)

    def unread(split: str, path: str) -> Unread:
        return Unread(path, lambda: read_layout(path, split, columns))

    paths = {split: getattr(section, split) for split in _SPLITS}
    given = {split: path for split, path in paths.items() if isinstance(path, str)}
    if there and not Path(section.train).expanduser().exists():
        del given["train"]
    for path in given.values():
        check_there(path)  # before anything needs a package to be read
    return {split: unread(split, path) for split, path in given.items()}


def open_records(
    section: ImageSection, task: str, prepared: Mapping[str, Any] | None, splits: Mapping[str, Unread]
) -> dict[str, Source]:
    """Turns records of images into sources.

    Args:
      section: says what the images become, and how many may be bad.
      task: the task's name.
      prepared: as for `open_images`.
      splits: what to open; `train` is among them, unless `prepared` is given.
    """
    if prepared is None:
        return records_together([section], task, [splits])[0]
    return _prepared_alike(section, task, learned_of(prepared), splits)


def records_together(
    sections: Sequence[ImageSection], task: str, splits: Sequence[Mapping[str, Unread]]
) -> list[dict[str, Source]]:
    """Turns the records of several sections into sources that are prepared alike: by the training images of all.

    Args:
      sections: as for `open_records`.
      task: the task's name.
      splits: what to open of each.
    """
    paths = [one["train"].path for one in splits]
    records = [one["train"].read() for one in splits]
    names = names_of(task, paths[0], joined(records))
    labels = [_encoded(section, task, one, names, ()) for section, one in zip(sections, records, strict=True)]
    form, told = first_look(sections[0], paths, records, labels)
    read, opened = [], []
    for section, path, one, found in zip(sections, paths, records, labels, strict=True):
        used = checked(section, path, one, *found, form, decode_now=True)
        read.append((used, divided(section, used)))
    scale = statistics([(used.pixels, used.labels.rows[parts["train"]]) for used, parts in read])
    for section, (used, parts), unread in zip(sections, read, splits, strict=True):
        learned = learn(used, form, names, scale)
        trained = _sources(task, "train", used, parts, learned, told)
        rest = {split: one for split, one in unread.items() if split != "train"}
        opened.append(trained | _prepared_alike(section, task, learned, rest))
        told = []  # of all of them, and said once
    return opened


def _prepared_alike(
    section: ImageSection, task: str, learned: Learned, splits: Mapping[str, Unread]
) -> dict[str, Source]:
    """Sources of images that are prepared as others were; training images are decoded where they are needed."""
    opened: dict[str, Source] = {}
    for split in (name for name in _SPLITS if name in splits):
        path, read = splits[split]
        records, train = read(), split == "train"
        found = _encoded(section, task, records, learned.class_names, learned.left_out if train else ())
        used = checked(section, path, records, *found, learned.form, decode_now=not train)
        parts = divided(section, used) if train else {split: np.arange(len(used.labels.rows))}
        if not train:
            used.pixels.check(sample_of(used.labels.rows))
        opened |= _sources(task, split, used, parts, learned, [])
    return opened


def divided(section: ImageSection, used: Split) -> dict[str, np.ndarray]:
    """Which of the usable training images are trained on, and which are held out."""
    if not isinstance(section.validation, float):
        return {"train": np.arange(len(used.labels.rows))}
    stays, held = held_out(used.labels.values, section.validation, section.split_seed)
    if not len(stays):
        raise DataError(
            f"data.validation: {section.validation:g} of the {len(held)} training images leaves none to train "
            "on; use a smaller fraction"
        )
    return {"train": stays, "validation": held}


def _sources(
    task: str, split: str, used: Split, parts: Mapping[str, np.ndarray], learned: Learned, told: Sequence[str]
) -> dict[str, Source]:
    used.tell()
    notes = [*used.records.notes, *used.bad.notes(used.records.length), *told]
    return {name: _source(task, used, rows, learned, notes if name == split else []) for name, rows in parts.items()}


# -- learning and checking ------------------------------------------------------------------------


def first_look(
    section: ImageSection,
    paths: Sequence[str],
    records: Sequence[Records],
    labels: Sequence[tuple[Labels, BadRecords]],
) -> tuple[Form, list[str]]:
    """The form of the training images, and what there is to say of it."""
    resample = None if section.size is None else section.resample
    wanted = Form(section.size, section.channels, resample)
    parts = [(one, found.rows) for one, (found, _) in zip(records, labels, strict=True)]
    form, looked_at, grey = common_form(parts, wanted) if any(len(rows) for _, rows in parts) else (None, 0, 0)
    if form is None:
        one, (found, bad) = records[0], labels[0]
        for row in found.rows.tolist():
            bad.add(one.name(row), _why(one, row))
        bad.notes(one.length)  # which raises, as none is good
        raise DataError(f"{paths[0]}: has no image that can be read")
    if section.channels is None and 0 < grey < looked_at:
        return form, [
            f"{paths[0]}: {grey} of {looked_at} images looked at are grey and the others in colour, so that all are "
            "read in colour; set data.channels: 1 to read all in grey"
        ]
    return form, []


def _encoded(
    section: ImageSection, task: str, records: Records, names: Sequence[str], left_out: Sequence[int]
) -> tuple[Labels, BadRecords]:
    bad = BadRecords(section.max_bad_fraction, unit="image")
    return encode(task, records, names, bad, left_out=left_out), bad


def _why(records: Records, row: int) -> str:
    try:
        decode(records.read(row), Form())
    except UnreadableError as error:
        return str(error)
    return "cannot be read"


def checked(
    section: ImageSection, path: str, records: Records, labels: Labels, bad: BadRecords, form: Form, *, decode_now: bool
) -> Split:
    """Decodes the images where they fit into memory, and leaves out those that cannot be read."""
    assert form.size is not None
    assert form.channels is not None
    size = records.length * form.size[0] * form.size[1] * form.channels
    pixels = Pixels(records, form, keep=section.engine == "numpy" and size <= section.cache_mib * _MIB)
    if pixels.keeps and decode_now:
        pixels.check(labels.rows)
        good = np.array([row not in pixels.failed for row in labels.rows.tolist()], bool)
        for row in labels.rows[~good].tolist():
            bad.add(records.name(row), pixels.failed[row])
        labels = Labels(labels.rows[good], labels.values[good])
    if not len(labels.rows):
        bad.notes(records.length)  # which raises where records were bad
        raise DataError(f"{path}: has no images")
    return Split(records, labels, pixels, bad, told=set(pixels.failed))


def learn(split: Split, form: Form, names: Sequence[str], scale: tuple[list[float], list[float]]) -> Learned:
    """What the training images teach: `scale` is the mean and the standard deviation of each channel of theirs."""
    assert form.size is not None
    assert form.channels is not None
    left_out = np.setdiff1d(np.arange(split.records.length), split.labels.rows)
    return Learned(
        size=form.size, channels=form.channels, resample=form.resample, mean=tuple(scale[0]), std=tuple(scale[1]),
        class_names=tuple(names), left_out=tuple(left_out.tolist()),
    )  # fmt: skip


def learned_of(prepared: Mapping[str, Any]) -> Learned:
    """What `Source.prepared` holds, which JSON has made lists of."""
    values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in prepared.items()}
    return Learned(**values)


def stored(learned: Learned) -> dict[str, Any]:
    """What `Source.prepared` holds, as JSON has it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in learned._asdict().items()}


# -- the sources ----------------------------------------------------------------------------------


def _source(task: str, split: Split, rows: np.ndarray, learned: Learned, notes: Sequence[str]) -> Source:
    """The source of some of a split's usable records."""
    chosen, values = split.labels.rows[rows], split.labels.values[rows]
    prepared = stored(learned)
    weigh, (centre, factor) = weigher(split), standardization(learned.mean, learned.std)

    def kept(indices: np.ndarray) -> dict[str, np.ndarray]:
        records = chosen[indices]
        return {"inputs": split.pixels.take(records), "labels": values[indices]} | weigh(records)

    def take(indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = kept(indices)
        return batch | {"inputs": standardized(batch["inputs"], centre, factor)}

    names = list(learned.class_names)
    info: dict[str, Any] = (
        {"targets": 1, "target_names": ["label"]}
        if task == "regress"
        else {"classes": len(names), "class_names": names}
    )
    return Source(
        length=len(chosen),
        take=take,
        info=info | ({"notes": list(notes)} if notes else {}),
        fingerprint=fingerprint("images", task, split.records.digest, repr(sorted(prepared.items())), chosen),
        prepared=prepared,
        labels=lambda: values,
        names=lambda indices: [split.records.name(row) for row in chosen[indices].tolist()],
        stored=as_bytes(kept, take, centre, factor),
    )


def standardization(mean: Sequence[float], std: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns centre and factor, float32 `[C]`: pixels of 0 to 255 are standardized as `(x - centre) * factor`.

    Args:
      mean, std: of each channel, of values in 0..1.

    Example:
      >>> [x.tolist() for x in standardization([0.5], [0.0])]
      [[127.5], [0.003921568859368563]]
    """
    divisor = np.array([s if s > 0 else 1.0 for s in std])
    return (255 * np.array(mean)).astype(np.float32), (1 / (255 * divisor)).astype(np.float32)


def standardizer(learned: Learned) -> Callable[[np.ndarray], np.ndarray]:
    """A function of pixels uint8 `[B, H, W, C]` that standardizes them by the training images."""
    centre, factor = standardization(learned.mean, learned.std)
    return lambda pixels: standardized(pixels, centre, factor)


def weigher(split: Split) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """What a batch says of images that only now turn out to be bad: they weigh nothing, as long as they are few."""
    records, pixels = split.records, split.pixels

    def weigh(rows: np.ndarray) -> dict[str, np.ndarray]:
        failed = [row for row in rows.tolist() if row in pixels.failed] if pixels.failed else []
        if pixels.keeps:
            if failed:
                raise DataError(f"{records.name(failed[0])}: {pixels.failed[failed[0]]}")
            return {}
        if failed:
            split.tell()
            split.bad.notes(records.length)
        return {"weight": np.array([row not in pixels.failed for row in rows.tolist()], np.float32)}

    return weigh


# -- images to predict ----------------------------------------------------------------------------


def image_inputs(section: ImageSection, task: str, prepared: Mapping[str, Any], paths: Sequence[str]) -> Source:
    """Opens images without labels, to predict.

    Args:
      section: the run's `data` section.
      task: not looked at.
      prepared: what the run has learned of its training images.
      paths: image files; folders, of which all images are taken at any depth; other layouts, such as CSV or tar; and
        `-` for standard input, which is one image or the paths of several, a line each.

    Returns:
      A source of inputs alone; `info["names"]` are the paths, and `info["bad"]` holds those that name no image.

    Raises:
      DataError: the only path names no image. An image that cannot be read is an error when it is taken.
    """
    del task
    learned = learned_of(prepared)
    bad = BadInputs(() if STDIN in paths else paths)
    parts = []
    for path in paths:
        with bad.reading(path):
            for part in unlabelled(section, path, bad):
                parts.append(part)
                bad.good += part.length
    ends = np.cumsum([part.length for part in parts])
    if not bad.good and not bad.found:
        raise DataError(f"{', '.join(paths) or 'no path'}: names no images")
    standardized = standardizer(learned)

    def one(index: int) -> np.ndarray:
        part = int(np.searchsorted(ends, index, side="right"))
        row = index - int(ends[part]) + parts[part].length
        if row in parts[part].problems:
            raise DataError(f"{parts[part].name(row)}: {parts[part].problems[row]}")
        try:
            return decode(parts[part].read(row), learned.form._replace(trained=True))
        except UnreadableError as error:
            raise DataError(f"{parts[part].name(row)}: {error}") from error

    return Source(
        length=bad.good,
        take=lambda indices: {"inputs": standardized(np.stack([one(index) for index in indices.tolist()]))},
        info={"names": [part.name(row) for part in parts for row in range(part.length)], "bad": bad.found},
        fingerprint=fingerprint("images to predict", *(part.digest for part in parts)),
        prepared=prepared,
    )


def unlabelled(section: DataSection, path: str, bad: BadInputs) -> Iterable[Records]:
    """The records of a path to predict, as `image_inputs` takes them; those of standard input that are none are bad."""
    if path == STDIN:
        return _standard_input(section, sys.stdin.buffer.read(MAX_BYTES), bad)
    place = Path(path).expanduser()
    if place.is_dir():
        images, _ = images_below(place, place)
        if images:
            return [records_of(place, path, images)]
    elif path.lower().endswith(SUFFIXES) and place.is_file():
        return [records_of(place.parent, os.path.dirname(path), [place.name])]
    columns = Columns(getattr(section, "image_column", None), None, getattr(section, "root", None))
    return [read_layout(path, "test", columns, labelled=False)]


def _standard_input(section: DataSection, content: bytes, bad: BadInputs) -> Iterator[Records]:
    if b"\0" in content[:4096]:  # which no list of paths has, and nearly every image
        yield Records(1, lambda _: content, lambda _: STDIN, None, fingerprint(content.hex()))
        return
    for path in (line.strip() for line in os.fsdecode(content).splitlines()):
        if path and path != STDIN:
            with bad.reading(path):
                yield from unlabelled(section, path, bad)


IMAGES = Reader(open=open_images, inputs=image_inputs, together=open_images_together)
