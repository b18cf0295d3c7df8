"""COCO JSON as its format means it: crowds, empty images, boxes without area; and what is bad, by its id."""

import json

import numpy as np
import pytest
from PIL import Image as Pillow

from jaxprop.config.schema.data import Coco
from jaxprop.data import READERS, open_sources
from jaxprop.errors import ConfigError, DataError
from jaxprop.types import Source

SIZES = {1: (10, 20), 2: (10, 20), 3: (20, 20)}  # height and width by image id


@pytest.fixture
def write(tmp_path):
    """Writes images and a JSON file; changes are made to its object before."""
    for identity, (height, width) in SIZES.items():
        pixels = np.full((height, width, 3), 40 * identity, np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / f"{identity}.png")

    def write(change=None, name="train.json"):
        held = {
            "images": [
                {"id": i, "file_name": f"{i}.png", "height": height, "width": width}
                for i, (height, width) in SIZES.items()
            ],
            "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
            "annotations": [
                {"id": 101, "image_id": 1, "category_id": 18, "bbox": [2, 1, 4, 5]},
                {"id": 102, "image_id": 1, "category_id": 3, "bbox": [10, 0, 10, 10], "iscrowd": 1},
                {"id": 103, "image_id": 3, "category_id": 3, "bbox": [0, 0, 20, 20], "iscrowd": 0},
            ],
        }
        if change is not None:
            change(held)
        (tmp_path / name).write_text(json.dumps(held))
        return str(tmp_path / name)

    return write


def section(path, **options):
    return Coco(name="coco", **{"train": path, "size": (20, 20), "batch_size": 2} | options)


def opened(path, **options) -> Source:
    return open_sources(section(path, **options), "detect")["train"]


def test_boxes_are_scaled_with_their_images_and_padded(write):
    source = opened(write())
    batch = source.take(np.arange(3))
    assert source.info["class_names"] == ["cat", "dog"]  # by the ids of the categories, whatever their order
    assert batch["inputs"].shape == (3, 20, 20, 3)
    assert batch["boxes"][0].tolist() == [[2, 2, 6, 12], [10, 0, 20, 20]]
    assert batch["labels"].tolist() == [[1, 0], [0, 0], [0, 0]]
    assert batch["mask"].tolist() == [[1, 0], [0, 0], [1, 0]]  # a crowd is no object, and the second image is empty
    assert batch["crowd"].tolist() == [[0, 1], [0, 0], [0, 0]]
    assert batch["boxes"][2, 0].tolist() == [0, 0, 20, 20]
    assert not batch["boxes"][1].any()


def test_sizes_that_the_file_leaves_out_are_those_of_the_images(write):
    def without(held):
        for image in held["images"]:
            del image["height"], image["width"]

    whole, bare = opened(write()), opened(write(without))
    for name, values in whole.take(np.arange(3)).items():
        np.testing.assert_array_equal(bare.take(np.arange(3))[name], values)


def test_boxes_without_area_are_left_out_and_those_over_the_edge_are_cut_and_both_are_told(write):
    def change(held):
        held["annotations"][0]["bbox"] = [15, 2, 0, 5]
        held["annotations"][2]["bbox"] = [-4, 5, 10, 30]

    source = opened(write(change))
    batch = source.take(np.arange(3))
    assert batch["boxes"][2, 0].tolist() == [0, 5, 6, 20]
    assert batch["mask"].sum() == 1
    told = " ".join(source.info["notes"])
    assert "1 boxes without width or height, left out: annotation 101" in told
    assert "1 boxes that reach over the edge of their image, cut there: annotation 103" in told


def set_annotation(**values):
    return lambda held: held["annotations"][0].update(values)


BAD = {
    "outside": (
        set_annotation(bbox=[30, 0, 4, 4]),
        r"annotation 101: its bbox \[30, 0, 4, 4\] lies outside of the image",
    ),
    "nan": (set_annotation(bbox=[float("nan"), 0, 4, 4]), "annotation 101: its bbox .* is not finite"),
    "infinite": (set_annotation(bbox=[0, 0, float("inf"), 4]), "annotation 101: its bbox .* is not finite"),
    "negative": (set_annotation(bbox=[5, 5, -4, 4]), "annotation 101: .* has a negative width or height"),
    "three numbers": (set_annotation(bbox=[5, 5, 4]), "annotation 101: has no bbox of four numbers"),
    "text": (set_annotation(bbox=["a", 1, 2, 3]), "annotation 101: has no bbox of four numbers"),
    "no class": (set_annotation(category_id=99), "annotation 101: its category_id 99 is none of the categories"),
    "class missing": (set_annotation(category_id=None), "annotation 101: has no category_id"),
    "no image": (set_annotation(image_id=77), "annotation 101: its image_id 77 is none of the images"),
    "no object": (lambda held: held["annotations"].__setitem__(0, 7), "annotation 1 of the list: is no object"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_annotation_is_named_and_skipped_where_that_is_allowed(write, case):
    change, message = BAD[case]
    path = write(change)
    with pytest.raises(DataError, match=rf"train\.json: {message}.*max_bad_fraction"):
        opened(path)
    source = opened(path, max_bad_fraction=0.5)
    assert any("skipped 1 of 3 annotations" in note for note in source.info["notes"])
    assert source.take(np.arange(3))["mask"].sum() == 1


def test_nothing_to_learn_from_is_told_before_training(write):
    def crowds(held):
        for item in held["annotations"]:
            item["iscrowd"] = 1

    def empty(held):
        for item in held["annotations"]:
            item["bbox"] = [1, 1, 0, 3]

    with pytest.raises(DataError, match=r"train\.json: has no object to learn from: all its 3 boxes .* are crowds"):
        opened(write(crowds))
    with pytest.raises(DataError, match=r"train\.json: has no object to learn from: no image has a box with an area"):
        opened(write(empty))
    with pytest.raises(DataError, match=r"no image has a box with an area; label objects"):
        opened(write(lambda held: held["annotations"].clear()))
    # Nothing is wrong with such a test split, but nothing can be measured on it.
    train, test = write(), write(crowds, "test.json")
    source = open_sources(section(train, test=test), "detect")["test"]
    assert source.info["notes"] == [f"{test}: has no object, so that no average precision can be measured"]


def test_a_class_without_an_object_is_told(write):
    source = opened(write(lambda held: held["categories"].append({"id": 40, "name": "bird"})))
    assert any("has no object of 1 of its classes: bird" in note for note in source.info["notes"])
    one = opened(write(lambda held: (held["categories"].pop(), held["annotations"].pop(1), held["annotations"].pop())))
    assert one.info["class_names"] == ["dog"]
    assert "notes" not in one.info


def damage(tmp_path, how):
    file = tmp_path / "2.png"
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes({"truncated": content[:40], "empty": b"", "no image": b"hello" * 20}[how])


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("missing", "is not there: no such file"),
        ("truncated", "is a damaged image|is no image"),
        ("empty", "is empty"),
        ("no image", "is no image, or a damaged one"),
    ],
)
def test_a_bad_image_is_named_and_skipped_with_its_boxes_where_that_is_allowed(write, tmp_path, how, why):
    path = write()
    damage(tmp_path, how)
    with pytest.raises(DataError, match=rf"2\.png: ({why})"):
        opened(path)
    source = opened(path, max_bad_fraction=0.5)
    assert source.length == 2
    assert any("skipped 1 of 3 images" in note for note in source.info["notes"])
    assert source.take(np.array([1]))["boxes"][0, 0].tolist() == [0, 0, 20, 20]


def test_an_image_of_another_size_than_the_file_says_is_bad(write):
    def change(held):
        held["images"][1].update(height=20, width=10)

    with pytest.raises(DataError, match=r"2\.png: has 10 x 20 pixels .* says 20 x 10 of image 2; height and width are"):
        opened(write(change))


def test_whole_numbers_may_be_written_as_floats(write):
    """Fault: a size that is no integer counted as none, so that boxes were in the pixels of the file's own size."""
    path = write(lambda held: held["images"][0].update(height=10.0, width=20.0))
    np.testing.assert_array_equal(opened(path).take(np.array([0]))["boxes"], opened(write()).take([0])["boxes"])
    with pytest.raises(DataError, match=r"1\.png: has .* says 20 x 40"):
        opened(write(lambda held: held["images"][0].update(height=20.0, width=40.0)))


@pytest.mark.parametrize("height", ["10", 10.5, -10, True, [10]])
def test_sizes_that_are_no_whole_numbers_are_refused(write, height):
    with pytest.raises(DataError, match=r"image 1 of the list \(1\.png\) has the height .* expected whole numbers"):
        opened(write(lambda held: held["images"][0].update(height=height)))


@pytest.mark.parametrize("quality", ["jpg", "png"])
def test_an_image_is_prepared_to_predict_as_it_is_to_train(tmp_path, quality):
    """Fault: large JPEGs were decoded at their full size to predict, and at a fraction of it to train."""
    rng = np.random.default_rng(0)
    for identity in (1, 2):
        pixels = rng.integers(0, 255, (480, 640, 3)).astype(np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / f"{identity}.{quality}")
    held = {
        "images": [{"id": i, "file_name": f"{i}.{quality}", "height": 480, "width": 640} for i in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": i, "image_id": i, "category_id": i, "bbox": [9, 9, 99, 99]} for i in (1, 2)],
    }
    (tmp_path / "train.json").write_text(json.dumps(held))
    made = section(str(tmp_path / "train.json"), size=(32, 32))
    train = open_sources(made, "detect")["train"]
    given = READERS["coco"].inputs(made, "detect", train.prepared, [str(tmp_path / f"{i}.{quality}") for i in (1, 2)])
    batch = given.take(np.arange(2))
    np.testing.assert_array_equal(batch["inputs"], train.take(np.arange(2))["inputs"])
    assert batch["image_size"].tolist() == [[480, 640]] * 2


def squares(write, of):
    """Eight boxes on the images of 10 x 20 pixels, of `(x, y, width, height)`, written as `of` makes them."""

    def change(held):
        held["annotations"] = [
            {"id": i, "image_id": 1 + i % 2, "category_id": 18, "bbox": of(6 + i % 3, 4, 5, 4)} for i in range(8)
        ]
        for image in held["images"][:2]:
            image.update(height=10, width=20)

    return write(change)


def test_boxes_that_are_corners_or_shares_are_refused_with_the_fix(write):
    """Fault: they were cut at the edge, or trained on as boxes of less than a pixel, with a note or none."""
    assert opened(squares(write, lambda *box: list(box))).length == 3
    with pytest.raises(
        DataError, match=r"8 of 8 boxes reach over the edge .* all fit as corners x0, y0, x1, y1; write"
    ):
        opened(squares(write, lambda x, y, w, h: [x + 3, y + 1, x + w + 3, y + h + 1]))
    with pytest.raises(DataError, match=r"no box has a number above 1, .* COCO's are in pixels, so multiply"):
        opened(squares(write, lambda x, y, w, h: [x / 20, y / 10, w / 20, h / 10]))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("image_id", "1", r"its image_id '1' \(text, where theirs is a number\) is none of the images"),
        ("category_id", "18", r"its category_id '18' \(text, where theirs is a number\) is none of the categories"),
        ("category_id", 5, "its category_id 5 is none of the categories"),
        ("bbox", None, r"has no bbox of four numbers, x, y, width and height \(its segmentation is not read\)"),
    ],
)
def test_an_id_of_another_type_is_told_with_its_type(write, key, value, why):
    def change(held):
        held["annotations"][0].update({key: value, "segmentation": [[1, 1, 2, 2, 3, 3]]})

    with pytest.raises(DataError, match=why):
        opened(write(change))


def test_ids_that_a_table_of_floats_has_passed_through_are_whole_numbers(write):
    def change(held):
        held["images"][0]["id"] = 1.0
        held["annotations"][0].update(image_id=1.0, category_id=18.0)

    np.testing.assert_array_equal(opened(write(change)).take([0])["boxes"], opened(write()).take([0])["boxes"])


BROKEN = {
    "empty": ("", r"train\.json: is empty; expected COCO JSON"),
    "truncated": ('{"images": [\n{"id": 1, ', r"train\.json:2: ends too early, and was cut short"),
    "truncated in a text": ('{"images": [\n{"id": 1, "file_na', r"train\.json:2: ends too early, and was cut short"),
    "no json": ("id,label\n1,2\n", r"train\.json:1: is no JSON"),
    "list": ("[1, 2]", r"train\.json: is no COCO JSON"),
    "other": ('{"rows": []}', r"without images and annotations and categories"),
    "no images": ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "has no images"),
    "no classes": ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_in_one_sentence_with_its_line(tmp_path, case):
    content, message = BROKEN[case]
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(DataError, match=message) as raised:
        opened(str(tmp_path / "train.json"))
    assert "\n" not in str(raised.value)


def test_a_folder_without_any_of_the_images_is_what_is_named(write, tmp_path):
    """Fault: one image was said to be missing, and advised to be repaired."""
    path = write()
    (tmp_path / "photos").mkdir()
    for file in tmp_path.glob("*.png"):
        file.rename(tmp_path / "photos" / file.name)
    with pytest.raises(DataError, match=r"data\.images: .*: holds none of the 3 images of .*, such as 1\.png; name"):
        opened(path)
    assert opened(path, images=str(tmp_path / "photos")).length == 3


def test_two_images_or_categories_of_one_id_are_named(write):
    with pytest.raises(DataError, match="two images have the id 1"):
        opened(write(lambda held: held["images"][1].update(id=1)))
    with pytest.raises(DataError, match="two categories have the id 18"):
        opened(write(lambda held: held["categories"][1].update(id=18)))


def test_a_missing_file_and_a_missing_folder_are_named(write, tmp_path):
    write()
    with pytest.raises(DataError, match=r"trian\.json: no such file; did you mean 'train\.json'"):
        opened(str(tmp_path / "trian.json"))
    with pytest.raises(DataError, match=r"data\.images: .*nowhere: no such folder"):
        opened(str(tmp_path / "train.json"), images=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"data\.test_images: there is no data\.test"):
        opened(str(tmp_path / "train.json"), test_images=str(tmp_path))


def test_other_splits_have_the_classes_of_the_training_file(write):
    def other_ids(held):
        held["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cow"}]
        held["annotations"] = [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}]

    sources = open_sources(section(write(), test=write(other_ids, "test.json")), "detect")
    assert sources["test"].take(np.array([0]))["labels"].tolist() == [[1]]

    def unknown(held):
        other_ids(held)
        held["annotations"][0]["category_id"] = 2

    path = write(unknown, "test.json")
    with pytest.raises(
        DataError, match=r"annotation 7: its category 'cow' is no class of the training data \(cat, dog\)"
    ):
        open_sources(section(write(), test=path), "detect")


def test_a_part_of_the_images_is_held_out_to_validate_by(write):
    sources = open_sources(section(write(), validation=0.3), "detect")
    assert {split: source.length for split, source in sources.items()} == {"train": 2, "validation": 1}
    assert sources["train"].prepared == sources["validation"].prepared


def test_a_run_needs_no_training_file_to_be_used(write, tmp_path):
    train = opened(write())
    test = write(name="test.json")
    (tmp_path / "train.json").unlink()
    used = section(str(tmp_path / "train.json"), test=test)
    again = open_sources(used, "detect", json.loads(json.dumps(train.prepared)))
    assert list(again) == ["test"]
    np.testing.assert_array_equal(again["test"].take(np.arange(3))["inputs"], train.take(np.arange(3))["inputs"])


def test_images_that_do_not_fit_into_memory_are_the_same(write, tmp_path):
    path = write()
    kept, anew = opened(path), opened(path, cache_mib=0)
    for name, values in kept.take(np.arange(3)).items():
        np.testing.assert_array_equal(anew.take(np.arange(3))[name], values)
    damage(tmp_path, "truncated")
    batch = opened(path, cache_mib=0, max_bad_fraction=0.5).take(np.arange(3))
    assert batch["weight"].tolist() == [1, 0, 1]


def test_only_detection_can_use_it(write):
    with pytest.raises(ConfigError, match="data 'coco' cannot be used for task 'classify'"):
        open_sources(section(write()), "classify")
