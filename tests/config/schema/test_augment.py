"""The items of `data.augment`: strict, bounded, and none that changes nothing."""

import pytest
from pydantic import TypeAdapter, ValidationError

from jaxprop.config.schema.augment import Augmentation
from jaxprop.config.schema.data import Digits

ADAPTER = TypeAdapter(Augmentation)

GOOD = [
    {"name": "crop", "pad": 1},
    {"name": "crop", "pad": 4, "mode": "reflect"},
    {"name": "flip"},
    {"name": "flip", "horizontal": 0, "vertical": 1},
    {"name": "affine", "degrees": 10},
    {"name": "affine", "shift": 0.5},
    {"name": "affine", "scale": 0.1, "mode": "edge"},
    {"name": "colour", "hue": 0.5},
    {"name": "colour", "brightness": 0.2, "contrast": 0.2, "saturation": 1},
    {"name": "cutout", "size": 3, "fill": -1.0, "probability": 0.5},
    {"name": "mixup"},
    {"name": "cutmix", "alpha": 0.3},
    {"name": "noise", "std": 0.1},
]
BAD = [
    {"name": "crop"},
    {"name": "crop", "pad": 0},
    {"name": "crop", "pad": 1.5},
    {"name": "crop", "pad": 1, "mode": "wrap"},
    {"name": "flip", "horizontal": 1.1},
    {"name": "flip", "horizontal": 0.0},
    {"name": "affine"},
    {"name": "affine", "degrees": 181},
    {"name": "affine", "scale": 1.0},
    {"name": "affine", "shift": -1.0},
    {"name": "colour"},
    {"name": "colour", "hue": 0.6},
    {"name": "colour", "contrast": "0.1"},
    {"name": "cutout"},
    {"name": "cutout", "size": 0},
    {"name": "mixup", "alpha": 0.0},
    {"name": "cutmix", "probability": -0.1},
    {"name": "noise"},
    {"name": "noise", "std": 0},
]


@pytest.mark.parametrize("item", GOOD, ids=str)
def test_an_item(item):
    made = ADAPTER.validate_python(item)
    assert item.items() <= made.model_dump().items()


@pytest.mark.parametrize("item", BAD, ids=str)
def test_an_item_that_is_refused(item):
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(item)


def test_a_list_of_them_keeps_its_order():
    made = Digits.model_validate({"name": "digits", "augment": GOOD})
    assert [item.name for item in made.augment] == [item["name"] for item in GOOD]
    assert Digits.model_validate({"name": "digits"}).augment == ()
