"""Every reader with every bad input that it may meet: one sentence that names the place and says what to do."""

import csv
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import TypeAdapter

from jaxprop.config.schema.data import Data
from jaxprop.data import open_sources
from jaxprop.errors import JaxpropError, MissingExtraError

TEXTS = ["a fine film", "dull", "the best of all", "no", "well made", "too long"]
CLASSES = ["good", "bad"] * 3
NUMBERS = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# -- files ----------------------------------------------------------------------------------------


def as_csv(name, columns, delimiter=","):
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([columns, *zip(*columns.values(), strict=True)])


def as_jsonl(name, columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_parquet(name, columns):
    pq.write_table(pa.table(columns), name)


def as_saved(name, columns):
    """A folder as `save_to_disk` of the library `datasets` writes it."""
    Path(name).mkdir()
    table = pa.table(columns)
    with pa.OSFile(f"{name}/data-00000-of-00001.arrow", "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    Path(name, "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))


def cut(name, fraction=0.5):
    """Keeps the first part of a file."""
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[: int(fraction * len(content))])


def png(side=4, grey=0):
    held = io.BytesIO()
    Image.fromarray(np.random.RandomState(grey).randint(0, 255, (side, side), np.uint8)).save(held, "PNG")
    return held.getvalue()


def pictures(name, classes=("cat", "dog"), side=4):
    for label in classes:
        Path(name, label).mkdir(parents=True)
        for i in range(3):
            Path(name, label, f"{i}.png").write_bytes(png(side, i))


def as_tar(name):
    with tarfile.open(name, "w") as archive:
        for i, label in enumerate(CLASSES):
            for suffix, content in (("png", png(grey=i)), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{i:03}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def rows(labels=CLASSES, **more):
    return {"x": NUMBERS, "z": [1, 2, 3, 4, 5, 6], "kind": labels, **more}


def texts(labels=CLASSES):
    return {"text": TEXTS, "label": labels}


def images(labels=CLASSES, sides=(4,) * 6):
    return {"image": [png(side, i) for i, side in enumerate(sides)], "label": labels}


def arrays(name, labels=(0, 1) * 3, inputs=NUMBERS):
    np.savez(name, inputs=np.array(inputs, np.float32).reshape(len(inputs), -1), labels=np.array(labels))


# -- sections -------------------------------------------------------------------------------------

TABLE = {"name": "table", "train": "t.csv", "target": "kind"}
TEXT = {"name": "text", "train": "t.csv", "label": "label"}
LANGUAGE = {"name": "text", "train": "t.txt"}
PAIRS = {"name": "pairs", "train": "t.csv"}
IMAGES = {"name": "images", "train": "t"}
ARRAYS = {"name": "arrays", "train": "t.npz"}
HF = {"name": "huggingface", "train": "t", "inputs": ["x", "z"], "label": "kind"}
HF_TEXT = {"name": "huggingface", "train": "t", "inputs": "text"}
HF_IMAGES = {"name": "huggingface", "train": "t.parquet", "inputs": "image"}
MIXED = {"name": "mixture", "sources": [LANGUAGE, LANGUAGE]}
GONE = "gone.csv"
WITH_TEST = {"test": "e.csv"}
NAN = [1.0, 2.0, float("nan"), 3.0, 4.0, 5.0]
NAN_TEXT = [1, 2, "nan", 3, 4, 5]


def two(write, train, test, names=("t.csv", "e.csv")):
    """Files of both splits."""
    return lambda: (write(names[0], train), write(names[1], test))


class Case(NamedTuple):
    """One reader with one bad input: what is written, the section, the task, and what has to be said."""

    bad: str
    write: object
    section: dict
    says: str
    task: str = "classify"


def nothing():
    pass


def empty(name):
    return lambda: Path(name).write_bytes(b"")


def ragged():
    Path("t.csv").write_text("text,label,kind,x,source,target\na,b,c,1,e,f\nb,c\n")


CASES = [
    # a file that is not there
    Case("missing", nothing, TABLE, r"t\.csv: no such file under"),
    Case("missing", lambda: as_csv("t.csv", rows()), TABLE | {"test": GONE}, r"gone\.csv: no such file under"),
    Case("missing", nothing, TEXT, r"data\.train: t\.csv: no such file or folder under"),
    Case("missing", nothing, LANGUAGE, r"data\.train: t\.txt: no such file or folder under", "language"),
    Case("missing", nothing, PAIRS, r"data\.train: t\.csv: no such file or folder under", "language"),
    Case("missing", nothing, IMAGES, r"t: no such file or folder under"),
    Case("missing", nothing, ARRAYS, r"t\.npz: no such file under"),
    Case("missing", nothing, HF, r"t: no such file or folder under"),
    Case("missing", nothing, HF_TEXT, r"t: no such file or folder under"),
    Case("missing", nothing, MIXED, r"data\.train: t\.txt: no such file or folder under", "language"),
    # an empty one
    Case("empty", empty("t.csv"), TABLE, r"t\.csv: the file is empty; expected a header line and at least one row"),
    Case("empty", empty("t.csv"), TEXT, r"t\.csv: is empty; expected text"),
    Case("empty", empty("t.parquet"), TEXT | {"train": "t.parquet"}, r"t\.parquet: is empty; expected"),
    Case("empty", empty("t.txt"), LANGUAGE, r"t\.txt: is empty; expected text", "language"),
    Case("empty", empty("t.csv"), PAIRS, r"t\.csv: is empty; expected text", "language"),
    Case("empty", empty("t.csv"), IMAGES | {"train": "t.csv"}, r"t\.csv: is empty; "),
    Case("empty", empty("t.tar"), IMAGES | {"train": "t.tar"}, r"t\.tar: is empty; "),
    Case("empty", lambda: pictures("t", classes=()) or Path("t").mkdir(), IMAGES, r"t: holds neither images nor"),
    Case("empty", empty("t.npz"), ARRAYS, r"t\.npz: is empty; "),
    Case("empty", empty("t.parquet"), HF | {"train": "t.parquet"}, r"t\.parquet: is empty; write it again"),
    Case("empty", lambda: Path("t").mkdir(), HF_TEXT, r"t: holds no \.arrow or \.parquet files for the split train; "),
    Case("empty", empty("t.txt"), MIXED, r"t\.txt: is empty; expected text", "language"),
    Case("empty", lambda: as_saved("t", {"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}),
         HF_TEXT, r"t: has no rows; expected at least one"),
    # another delimiter
    Case("delimiter", lambda: as_csv("t.csv", rows(), ";"), TABLE | {"delimiter": ","},
         r't\.csv: has only one column, .*; set data\.delimiter: ";"'),
    Case("delimiter", lambda: as_csv("t.csv", texts(), ";"), TEXT,
         r't\.csv: its columns are .*; set data\.delimiter: ";"'),
    Case("delimiter", lambda: as_csv("t.csv", texts(), ";"), LANGUAGE | {"train": "t.csv"},
         r't\.csv: its columns are not separated by \',\'; set data\.delimiter: ";"', "language"),
    Case("delimiter", lambda: as_csv("t.csv", {"source": TEXTS, "target": TEXTS}, "|"), PAIRS,
         r't\.csv: its columns are not .*; set data\.delimiter: "\|"', "language"),
    Case("delimiter", lambda: as_csv("t.csv", {"image": ["a.png"], "label": ["x"]}, ":"), IMAGES | {"train": "t.csv"},
         r"t\.csv: has only one column, 'image:label'; put the path and the label of each image into two"),
    # one class only
    Case("one class", lambda: as_csv("t.csv", rows(["good"] * 6)), TABLE, r"t\.csv: the target 'kind' .*; "),
    Case("one class", lambda: as_csv("t.csv", texts(["good"] * 6)), TEXT, r"t\.csv: has one class only, 'good'; "),
    Case("one class", lambda: pictures("t", ["cat"]), IMAGES, r"t: has one class only, 'cat'; "),
    Case("one class", lambda: arrays("t.npz", [1] * 6), ARRAYS, r"t\.npz:labels: has one class only, 1; "),
    Case("one class", lambda: as_saved("t", rows(["good"] * 6)), HF, r"t: has one class only, 'good'; "),
    Case("one class", lambda: as_saved("t", texts(["good"] * 6)), HF_TEXT, r"t: has one class only, 'good'; "),
    # a test split with a class that training has not
    Case("unseen class", two(as_csv, rows(), rows(["good"] * 5 + ["odd"])), TABLE | WITH_TEST,
         r"e\.csv:7: the target 'kind' is 'odd', a class that no training row has .*; "),
    Case("unseen class", two(as_csv, texts(), texts(["good"] * 5 + ["odd"])), TEXT | WITH_TEST,
         r"e\.csv:7: its label 'odd' is no class of the training data .*; "),
    Case("unseen class", lambda: (pictures("t"), pictures("e", ["cat", "odd"])), IMAGES | {"test": "e"},
         r"e/odd/0\.png: is of the class 'odd', which no training record has .*; "),
    Case("unseen class", two(arrays, (0, 1) * 3, (0, 2) * 3, ("t.npz", "e.npz")), ARRAYS | {"test": "e.npz"},
         r"e\.npz:labels\[1\] is 2, outside the classes 0\.\.1 .*; "),
    Case("unseen class", two(as_saved, rows(), rows(["good"] * 5 + ["odd"]), ("t", "e")), HF | {"test": "e"},
         r"e\[5\]: is of the class 'odd', which no training record has .*; "),
    Case("unseen class", two(as_saved, texts(), texts(["good"] * 5 + ["odd"]), ("t", "e")), HF_TEXT | {"test": "e"},
         r"e:6: its label 'odd' is no class of the training data .*; "),
    # columns of unequal length, and rows of unequal width
    Case("unequal", ragged, TABLE, r"t\.csv:3: has 2 values, but the header has 6 columns; "),
    Case("unequal", ragged, TEXT, r"t\.csv:3: has 2 values, but the header has 6 columns; "),
    Case("unequal", ragged, PAIRS, r"t\.csv:3: has 2 values, but the header has 6 columns; ", "language"),
    Case("unequal", lambda: (Path("a.txt").write_text("x\ny\n"), Path("b.txt").write_text("x\n")),
         PAIRS | {"train": "a.txt", "train_targets": "b.txt"}, r"b\.txt ends at line 1, but a\.txt ", "language"),
    Case("unequal", lambda: Path("t.csv").write_text("image,label\na.png\n"), IMAGES | {"train": "t.csv"},
         r"t\.csv: none .* \(t\.csv:2: has 1 value, but the header has 2 columns\); "),
    Case("unequal", lambda: arrays("t.npz", [0, 1]), ARRAYS, r"t\.npz:inputs has 6 examples but t\.npz:labels has 2; "),
    Case("unequal", lambda: as_saved("t", rows(v=[[1], [1, 2], [1], [1], [1], [1]])), HF | {"inputs": "v"},
         r"t\[1\]: the column 'v' holds lists of different lengths; pad them"),
    Case("unequal", lambda: (Path("t").mkdir(), as_parquet("t/0.parquet", rows()), as_parquet("t/1.parquet", texts())),
         HF, r"t/1\.parquet: has other columns than t/0\.parquet; all files of t need the same"),
    Case("unequal", lambda: Path("t.txt").write_text("some text " * 9),
         MIXED | {"sources": [LANGUAGE, LANGUAGE | {"sequence_length": 7}]}, r"data\.sources\.1 \(text\): has inputs of"
         r" shape \(7,\) .*; sources that are mixed need examples of one shape", "language"),
    # a target that is no number
    Case("NaN target", lambda: as_csv("t.csv", rows(NAN_TEXT)), TABLE, r"t\.csv:4: the target 'kind' .*; ", "regress"),
    Case("NaN target", lambda: as_csv("t.csv", texts(NAN_TEXT)), TEXT, r"t\.csv:4: its 'label' is 'nan', .*; ",
         "regress"),
    Case("NaN target", lambda: (pictures("p"), as_csv("p/t.csv", {"image": ["cat/0.png"] * 6, "label": NAN_TEXT})),
         IMAGES | {"train": "p/t.csv"}, r"p/t\.csv:4: its label 'nan' is no finite number; ", "regress"),
    Case("NaN target", lambda: arrays("t.npz", NAN), ARRAYS, r"t\.npz:labels\[2\] is nan, .*; drop or repair",
         "regress"),
    Case("NaN target", lambda: as_saved("t", rows(NAN)), HF, r"t\[2\]: its label nan is no finite number; ", "regress"),
    Case("NaN target", lambda: as_saved("t", texts(NAN)), HF_TEXT, r"t:3: its 'label' is nan, .*; ", "regress"),
    # an image of another size
    Case("size", lambda: (pictures("t"), Path("t/dog/0.png").write_bytes(png(5))), IMAGES,
         r"t/dog/0\.png: is 5 x 5 pixels .*; set data\.size: \[4, 4\] to resize all images"),
    Case("size", lambda: as_parquet("t.parquet", images(sides=(4, 4, 5, 4, 4, 4))), HF_IMAGES,
         r"t\.parquet\[2\]: is 5 x 5 pixels .*; set data\.size: \[4, 4\]"),
    # what is cut short
    Case("truncated", lambda: (pictures("t"), cut("t/dog/0.png", 0.7)), IMAGES,
         r"t/dog/0\.png: is a damaged image.*; "),
    Case("truncated", lambda: as_parquet("t.parquet", images() | {"image": [png()] * 5 + [png()[:60]]}), HF_IMAGES,
         r"t\.parquet\[5\]: is a damaged image, or cut short .*; "),
    Case("truncated", lambda: (as_tar("t.tar"), cut("t.tar", 0.36)), IMAGES | {"train": "t.tar"},
         r"t\.tar: is .*(damaged|cut short).*; "),
    Case("truncated", lambda: (as_parquet("t.parquet", images()), cut("t.parquet")), IMAGES | {"train": "t.parquet"},
         r"t\.parquet: is damaged, cut short, or .*; write it again"),
    Case("truncated", lambda: (as_parquet("t.parquet", rows()), cut("t.parquet")), TABLE | {"train": "t.parquet"},
         r"t\.parquet: is damaged, cut short or not a Parquet file; write it again"),
    Case("truncated", lambda: (as_parquet("t.parquet", texts()), cut("t.parquet")), TEXT | {"train": "t.parquet"},
         r"t\.parquet: is damaged, cut short, or .*; write it again"),
    Case("truncated", lambda: (as_parquet("t.parquet", rows()), cut("t.parquet")), HF | {"train": "t.parquet"},
         r"t\.parquet: is damaged, cut short, or .*; write it again"),
    Case("truncated", lambda: (as_saved("t", texts()), cut("t/data-00000-of-00001.arrow", 0.7)), HF_TEXT,
         r"t/data-00000-of-00001\.arrow: is damaged, cut short, or .*; write it again"),
    Case("truncated", lambda: (arrays("t.npz"), cut("t.npz")), ARRAYS,
         r"t\.npz: is damaged, cut short .*; write it again"),
    Case("truncated", lambda: Path("t-images-idx3-ubyte").write_bytes(b"\0\0\x08\3" + b"\0\0\0\4" * 3 + b"\1" * 9),
         IMAGES | {"train": "t-images-idx3-ubyte"}, r"t-images-idx3-ubyte: is damaged or cut short.*; "),
    # a tokenizer that is none, or another one
    *[
        Case("tokenizer", write, section | {"tokenizer": "tok.json"}, r"tok\.json is no tokenizer .*; save one", task)
        for write, section, task in [
            (lambda: as_csv("t.csv", texts()), TEXT, "classify"),
            (lambda: Path("t.txt").write_text("some text"), LANGUAGE, "language"),
            (lambda: as_csv("t.csv", {"source": TEXTS, "target": TEXTS}), PAIRS, "language"),
            (lambda: as_saved("t", texts()), HF_TEXT, "classify"),
        ]
    ],
    Case("tokenizer", lambda: Path("t.txt").write_text("some text " * 9),
         MIXED | {"sources": [LANGUAGE, LANGUAGE | {"tokenizer": {"train": "bpe", "vocabulary": 260}}]},
         r"data\.sources\.1 \(text\): has another tokenizer than data\.sources\.0 .*; set ", "language"),
]  # fmt: skip


def section_of(settings):
    return TypeAdapter(Data).validate_python(settings)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.section['name']}-{case.bad}-{i}" for i, case in enumerate(CASES)])
def test_each_bad_input_is_one_sentence_with_the_fix(case):
    case.write()
    Path("tok.json").write_text("{}")
    with pytest.raises(JaxpropError, match=case.says) as caught:
        open_sources(section_of(case.section), case.task)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert "Error" not in said


MISSING = [
    (TABLE, "pyarrow", lambda: as_csv("t.csv", rows())),
    (TABLE | {"train": "t.parquet"}, "pyarrow", lambda: as_parquet("t.parquet", rows())),
    (TEXT | {"train": "t.parquet"}, "pyarrow", lambda: as_parquet("t.parquet", texts())),
    (TEXT | {"tokenizer": "tok.json"}, "tokenizers", lambda: as_csv("t.csv", texts())),
    (TEXT | {"tokenizer": "tok.model"}, "sentencepiece", lambda: as_csv("t.csv", texts())),
    (IMAGES, "PIL", lambda: pictures("t")),
    (IMAGES | {"train": "t.parquet"}, "pyarrow", lambda: as_parquet("t.parquet", images())),
    (HF, "pyarrow", lambda: as_saved("t", rows())),
    (HF_TEXT, "pyarrow", lambda: as_saved("t", texts())),
]


@pytest.mark.parametrize(
    ("settings", "package", "write"), MISSING, ids=lambda value: value if type(value) is str else ""
)
def test_a_missing_file_is_told_before_a_missing_package(settings, package, write, monkeypatch):
    write()
    Path("tok.json").write_text("{}")
    Path("tok.model").write_bytes(b"\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match="install it with: pip install"):
        open_sources(section_of(settings), "classify")
    with pytest.raises(JaxpropError, match=r"gone: no such file"):
        open_sources(section_of(settings | {"test": "gone"}), "classify")
    with pytest.raises(JaxpropError, match=r"gone: no such file"):
        open_sources(section_of(settings | {"train": "gone"}), "classify")
