"""Images of every colour model become what a person sees; what cannot be read says why."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxprop.data.readers.images import decode as module
from jaxprop.data.readers.images.decode import Form, UnreadableError, decode
from tests.pictures import encoded

RED = np.zeros((4, 6, 3), np.uint8)
RED[..., 0] = 255
GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_grey_and_colour_come_back_to_the_bit(kind):
    assert np.array_equal(decode(encoded(GREY, kind), Form()), GREY[..., None])
    assert np.array_equal(decode(encoded(RED, kind), Form()), RED)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_back_nearly(kind):
    found = decode(encoded(RED, kind), Form())
    assert found.shape == (4, 6, 3)
    assert np.abs(found.astype(int) - RED).max() < 12


def test_pixels_that_fit_are_not_copied_and_need_no_library():
    assert decode(RED, Form((4, 6), 3)).base is not None or decode(RED, Form((4, 6), 3)) is RED
    assert decode(GREY, Form()).shape == (4, 6, 1)
    assert decode(GREY, Form(channels=3)).shape == (4, 6, 3)


CLEAR = np.zeros((4, 6, 4), np.uint8)  # black, and wholly transparent


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(CLEAR), (255, 255, 255)),
        (Image.fromarray(CLEAR).convert("LA"), (255,)),
        (Image.fromarray(np.full((4, 6), 40000, np.uint16)), (156,)),
        (Image.fromarray(np.full((4, 6), 255, np.uint8)).convert("1"), (255,)),
        (Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE), (255, 0, 0)),
    ],
    ids=["alpha", "grey alpha", "16 bit", "1 bit", "palette"],
)
def test_colour_models_become_grey_or_colour(image, expected):
    found = decode(saved(image), Form())
    assert found.shape == (4, 6, len(expected))
    assert found[0, 0].tolist() == list(expected)


def test_a_palette_with_a_transparent_entry_lies_on_white():
    image = Image.fromarray(RED).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(saved(image, transparency=image.getpixel((0, 0))), Form())[0, 0].tolist() == [255, 255, 255]


def test_cmyk_becomes_colour():
    found = decode(saved(Image.fromarray(RED).convert("CMYK"), "JPEG"), Form())
    assert found.shape == (4, 6, 3)
    assert found[0, 0, 0] > 200 > 60 > found[0, 0, 1]


def test_floats_in_0_to_1_are_read_and_others_refused():
    half = Image.fromarray(np.full((4, 6), 0.5, np.float32))
    assert decode(saved(half, "TIFF"), Form())[0, 0, 0] == 128
    with pytest.raises(UnreadableError, match=r"values outside 0\.\.1"):
        decode(saved(Image.fromarray(np.full((4, 6), 7, np.float32)), "TIFF"), Form())
    with pytest.raises(UnreadableError, match="integers of 32 bits"):
        decode(saved(Image.fromarray(np.full((4, 6), 2**20, np.int32)), "TIFF"), Form())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(GREY, "PNG", exif=exif), Form())
    expected = {
        1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: np.rot90(GREY, -1),
        7: np.rot90(GREY, 2).T, 8: np.rot90(GREY),
    }[orientation]  # fmt: skip
    assert np.array_equal(found[..., 0], expected)


def test_channels_and_size_are_made_what_is_asked():
    assert decode(encoded(RED), Form((8, 3), 1, "bilinear")).shape == (8, 3, 1)
    assert decode(encoded(GREY), Form((8, 3), 3, "nearest")).shape == (8, 3, 3)
    large = np.full((400, 600, 3), 77, np.uint8)
    assert np.abs(decode(encoded(large, "JPEG"), Form((20, 30), 3, "bilinear")).astype(int) - 77).max() < 3
    with pytest.raises(UnreadableError, match=r"is 4 x 6 pixels \(height x width\), but .* set data.size: \[5, 6\]"):
        decode(encoded(GREY), Form((5, 6), 1))


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.fromarray(np.full((4, 6), value, np.uint8)) for value in (10, 200)]
    found = decode(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), Form(channels=1))
    assert found[0, 0, 0] == 10


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 10_000, 14_000, 60_000])
def test_images_that_expand_too_far_are_refused_before_they_are_decoded(side):
    with pytest.raises(UnreadableError, match="67,108,864"):
        decode(bomb(side), Form())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"these are words", "is no image, or a damaged one; BMP, GIF, JPEG"),
        (encoded(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8))[:-200], "damaged image, or cut short"),
        (encoded(RED, "JPEG")[:-30], "damaged image, or cut short|is no image"),
        (saved(Image.fromarray(RED), "EPS"), "is no image, or a damaged one"),
    ],
    ids=["empty", "words", "cut PNG", "cut JPEG", "EPS"],
)
def test_what_is_no_image_says_so(content, why):
    with pytest.raises(UnreadableError, match=why) as caught:
        decode(content, Form())
    assert "\n" not in str(caught.value)


FILES = [encoded(RED, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILES), st.integers(0, 400), st.binary(min_size=1, max_size=8), st.booleans())
def test_damaged_files_are_images_or_unreadable_and_nothing_else(content, at, change, cut):
    damaged = content[:at] + change + (b"" if cut else content[at + len(change) :])
    try:
        found = decode(damaged, Form())
    except UnreadableError:
        pass
    else:
        assert found.dtype == np.uint8
        assert found.ndim == 3


def test_without_the_library_the_error_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(module.MissingExtraError, match="pip install pillow"):
        decode(b"x", Form())
