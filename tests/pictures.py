"""Small image files for the tests of readers: the brightness of each says which class and which example it is."""

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NAMES = ("cat", "dog", "owl")
EACH = 4  # images of a class
SIZE = (6, 5)  # height and width
STEP = 60  # brightness from one class to the next


def brightness(label, index):
    return STEP * label + 4 * index + 10


def pixels(label, index, channels=1, size=SIZE):
    values = np.full(size, brightness(label, index), np.uint8)
    return values if channels == 1 else np.stack([values] * 3, -1)


def encoded(values, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def everything(each=EACH):
    """Pairs of label and index in the order of a sorted folder."""
    return [(label, index) for label in range(len(NAMES)) for index in range(each)]


def folder(root, each=EACH, channels=1, kind="PNG"):
    for label, index in everything(each):
        place = Path(root) / NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index}.{kind.lower()}").write_bytes(encoded(pixels(label, index, channels), kind))
    return str(root)


def flat(root, each=EACH):
    """Images in one folder; returns the name and the class of each."""
    Path(root).mkdir(parents=True, exist_ok=True)
    rows = []
    for label, index in everything(each):
        name = f"{NAMES[label]}-{index}.png"
        (Path(root) / name).write_bytes(encoded(pixels(label, index)))
        rows.append((name, NAMES[label]))
    return rows


def as_csv(root, each=EACH, delimiter=","):
    rows = flat(root, each)
    file = Path(root) / "list.csv"
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, delimiter=delimiter).writerows([("image", "label"), *rows])
    return str(file)


def as_jsonl(root, each=EACH):
    file = Path(root) / "list.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"file_name": name, "label": label}) for name, label in flat(root, each)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def idx(values):
    return b"\0\0\x08" + bytes([values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


def as_idx(root, each=EACH, packed=False, start="train"):
    Path(root).mkdir(parents=True, exist_ok=True)
    examples = everything(each)
    images = idx(np.stack([pixels(*example) for example in examples]))
    labels = idx(np.array([label for label, _ in examples], np.uint8))
    end = ".gz" if packed else ""
    for content, name in ((images, f"{start}-images-idx3-ubyte{end}"), (labels, f"{start}-labels-idx1-ubyte{end}")):
        (Path(root) / name).write_bytes(gzip.compress(content) if packed else content)
    return str(Path(root) / f"{start}-images-idx3-ubyte{end}")


def as_cifar(root, each=EACH, labels=1):
    Path(root).mkdir(parents=True, exist_ok=True)
    records = b""
    for label, index in everything(each):
        before = bytes([label]) if labels == 1 else bytes([9, label])
        records += before + bytes([brightness(label, index)]) * 3072
    names = {1: ("data_batch_1.bin", "batches.meta.txt"), 2: ("train.bin", "fine_label_names.txt")}[labels]
    (Path(root) / names[0]).write_bytes(records)
    (Path(root) / names[1]).write_text("\n".join(NAMES) + "\n")
    return str(root)


def table(each=EACH, struct=True):
    examples = everything(each)
    images = [encoded(pixels(*example)) for example in examples]
    column = [{"bytes": image, "path": None} for image in images] if struct else images
    return pa.table({"image": column, "label": [label for label, _ in examples]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"label": {"names": list(NAMES), "_type": "ClassLabel"}}}})}
    )


def as_parquet(root, each=EACH, struct=True):
    Path(root).mkdir(parents=True, exist_ok=True)
    pq.write_table(table(each, struct), Path(root) / "train-0.parquet", row_group_size=5)
    return str(Path(root) / "train-0.parquet")


def as_arrow(root, each=EACH):
    """A folder as `save_to_disk` writes it."""
    Path(root).mkdir(parents=True, exist_ok=True)
    held = table(each)
    with pa.OSFile(str(Path(root) / "data-0.arrow"), "wb") as sink, pa.ipc.new_stream(sink, held.schema) as writer:
        writer.write_table(held, max_chunksize=5)
    (Path(root) / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    return str(root)


def as_tar(root, each=EACH):
    Path(root).mkdir(parents=True, exist_ok=True)
    file = Path(root) / "shard-0.tar"
    with tarfile.open(file, "w") as archive:
        for label, index in everything(each):
            key = f"{label}{index:03}"
            for name, content in ((f"{key}.png", encoded(pixels(label, index))), (f"{key}.cls", NAMES[label].encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return str(file)
