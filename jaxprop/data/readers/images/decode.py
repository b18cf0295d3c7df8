"""One image as pixels, whatever its format, colour model and orientation: by pillow, within limits."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxprop.errors import MissingExtraError, printable

if TYPE_CHECKING:
    from PIL.Image import Image

# For formats beyond these pillow may start other programs, such as Ghostscript for EPS.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
RESAMPLE = ("nearest", "bilinear", "bicubic", "lanczos", "box")
MAX_PIXELS = 2**26
MAX_BYTES = 2**28  # of one encoded image
_ORIENTATION = 0x0112  # the EXIF tag, and by its value the transposition that undoes it
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
    6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
_ON_ITS_SIDE = (5, 6, 7, 8)  # of the orientations, those that exchange height and width
_GREY = ("1", "L", "LA", "La")


class Form(NamedTuple):
    """What every image of a data set becomes.

    Args:
      size: height and width, or None for the image's own.
      channels: 1 (grey) or 3 (red, green, blue), or None for the image's own.
      resample: the filter that an image of another size is resized with; None refuses it.
      trained: whether a run was trained on such images, so that others have to be resized before.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    resample: str | None = None
    trained: bool = False


class UnreadableError(Exception):
    """What is wrong with one image, as a clause that follows its name."""


def decode(content: bytes | np.ndarray, form: Form) -> np.ndarray:
    """Decodes an image.

    It is turned upright by its EXIF orientation. Transparent parts are shown on white, as a browser does. Values of 16
    bits are rounded to 8. Of an animation, the first frame is taken.

    Args:
      content: an encoded image, or pixels uint8 `[H, W]` or `[H, W, 3]`.
      form: what it becomes.

    Returns:
      Pixels uint8 `[H, W, C]`.

    Raises:
      UnreadableError: it is no image, damaged, too large, or of another size than `form` says.
      MissingExtraError: pillow is not installed.

    Example:
      >>> decode(np.zeros((2, 3), np.uint8), Form()).shape
      (2, 3, 1)
    """
    if isinstance(content, np.ndarray):
        pixels = content.reshape(*content.shape[:2], -1)
        if form.size in (None, pixels.shape[:2]) and form.channels in (None, pixels.shape[2]):
            return pixels
    library = pillow()
    try:
        image = library.fromarray(content) if isinstance(content, np.ndarray) else _open(library, content, form)
        pixels = np.asarray(_fitted(library, _plain(library, image), form))
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:  # of any kind: what pillow raises for a damaged file depends on the format
        raise UnreadableError(_why(library, error)) from error
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def size_of(content: bytes) -> tuple[int, int]:
    """Returns the height and width of an encoded image, turned upright as `decode` turns it, from its header.

    Args:
      content: an encoded image.

    Raises:
      UnreadableError: it is no image, or damaged before its first pixel.
      MissingExtraError: pillow is not installed.

    Example:
      >>> size_of(b"P5 3 2 255 abcdef")
      (2, 3)
    """
    library = pillow()
    try:
        if not content:
            raise UnreadableError("is empty")
        image = library.open(BytesIO(content), formats=FORMATS)
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE
    except UnreadableError:
        raise
    except Exception as error:  # of any kind: what pillow raises for a damaged file depends on the format
        raise UnreadableError(_why(library, error)) from error
    return (width, height) if turned else (height, width)


def pillow() -> Any:
    """Returns the module `PIL.Image`, told to refuse images that expand too far.

    Raises:
      MissingExtraError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("PIL", "reading image files", install="pillow") from error
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    return Image


def _open(library: Any, content: bytes, form: Form) -> Image:
    if not content:
        raise UnreadableError("is empty")
    image = library.open(BytesIO(content), formats=FORMATS)
    width, height = image.size  # known from the header, before anything is decoded
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"has {width} x {height} pixels, more than the {MAX_PIXELS:,} that are read")
    if form.size is not None and form.resample is not None:
        # A large JPEG is decoded at a fraction of its size: twice what is wanted, so that the filter still has its say.
        image.draft(None, (2 * max(form.size),) * 2)
    return _upright(library, image)


def _upright(library: Any, image: Image) -> Image:
    try:
        turned = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata say nothing against the pixels
        turned = None
    return image if turned is None else image.transpose(library.Transpose[turned])


def _plain(library: Any, image: Image) -> Image:
    """An image of the mode L or RGB."""
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if mode.startswith("I"):  # 16 bits, which some formats hold in 32
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableError("holds integers of 32 bits; save it with 8 or 16 bits")
        return library.fromarray(((values + 128) // 257).astype(np.uint8))
    if mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise UnreadableError("holds floating-point values outside 0..1; save it with 8 or 16 bits")
        return library.fromarray(np.round(values * 255).astype(np.uint8))
    grey = mode in _GREY
    if "transparency" in image.info or mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        # The two premultiplied modes have no way to RGBA but through their plain ones.
        image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, "RGBA")).convert("RGBA")
        image = library.alpha_composite(library.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def _fitted(library: Any, image: Image, form: Form) -> Image:
    mode = {1: "L", 3: "RGB", None: image.mode}[form.channels]
    if image.mode != mode:
        image = image.convert(mode)
    if form.size is None or image.size == form.size[::-1]:
        return image
    if form.resample is None:
        height, width = form.size
        if form.trained:
            raise UnreadableError(
                f"is {image.height} x {image.width} pixels (height x width), and this run takes {height} x {width}; "
                "resize it"
            )
        raise UnreadableError(
            f"is {image.height} x {image.width} pixels (height x width), but the first image is {height} x {width}; "
            f"set data.size: [{height}, {width}] to resize all images"
        )
    return image.resize(form.size[::-1], library.Resampling[form.resample.upper()])


def _why(library: Any, error: Exception) -> str:
    if isinstance(error, library.DecompressionBombError | library.DecompressionBombWarning):
        return f"has more than the {MAX_PIXELS:,} pixels that are read"
    if isinstance(error, library.UnidentifiedImageError):
        return f"is no image, or a damaged one; {', '.join(FORMATS)} can be read"
    detail = printable(" ".join(str(error).split()))[:100]
    return f"is a damaged image, or cut short ({detail or type(error).__name__})"
