"""Any picture as 8-bit RGB, or as numbers from 0 (black) to 1 (white): whatever is scored or shown is read here.

    grey of 16 bits    v -> v / 65535          not cut off at 255, as ``Image.convert`` does it
    grey of floats     from 0 to 1, or refused
    transparency       refused, unless all pixels are opaque: what shines through is not known
    animation          a file of several pictures is refused; an opened one counts as the frame at which it stands
    anything else      as Pillow converts it: palettes, CMYK (without a printer's profile), colour of 16 bits a channel
                       (of which Pillow keeps the upper 8)

An orientation in EXIF and a colour profile are not followed, as FID programs do not follow them.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import numpy as np
from PIL import Image

from shapefirst.errors import ShapefirstError, first_line, said

__all__ = ["AnyPicture", "numbers_of", "read_rgb", "to_rgb", "unit"]

AnyPicture: TypeAlias = "Image.Image | np.ndarray"

_LARGEST: Final = 2**28  # bytes of a picture file, which some decoders read as a whole
_SIXTEEN: Final = ("I;16", "I;16L", "I;16B", "I;16N")
_CONVERTED: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")
_BITS, _PHOTOMETRIC = 258, 262  # of TIFF's tags
_ROUNDING: Final = 1e-6  # by which floats may miss 0 and 1


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode "RGB", as the module says.

    Raises:
        ShapefirstError: It is truncated or damaged, transparent, or of numbers that do not say what is white.
    """
    grey = _deep_grey(image)
    if grey is not None:
        return Image.fromarray(np.rint(255 * grey).astype(np.uint8)).convert("RGB")
    if image.mode not in _CONVERTED:
        raise _refused(image, f"its mode is {image.mode}, so convert it to RGB first")
    if not image.has_transparency_data:
        return image.convert("RGB")
    whole = image.convert("RGBA")
    if np.asarray(whole.getchannel("A")).min() < 255:
        raise _transparent(image)
    return whole.convert("RGB")


def read_rgb(source: Path | IO[bytes], name: str = "") -> Image.Image:
    """A picture file in mode "RGB", as the module says.

    Args:
        source: Where it is.
        name: What sentences call it; by default the path.

    Raises:
        ShapefirstError: It cannot be read, holds several pictures, or is none that `to_rgb` takes.
    """
    try:
        if isinstance(source, Path) and (size := source.stat().st_size) > _LARGEST:
            raise ValueError(f"it has {size:,} bytes, and at most {_LARGEST:,} are read")
        with Image.open(source) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # a photograph, with previews behind it
                raise _refused(image, f"it holds {frames} pictures, so save the one that is meant")
            image.load()
            return to_rgb(image)
    except ShapefirstError:
        raise
    except Exception as error:  # whatever Pillow's many decoders make of a damaged file
        raise _damaged(name or str(source), error) from error


def unit(picture: AnyPicture) -> np.ndarray:
    """(height, width, 3) float64 in [0, 1]; grey is three equal channels.

    Args:
        picture: A PIL image, as the module says; or an array (height, width), (height, width, 1) or (height, width, 3)
            of uint8, of booleans (true is white) or of floats in [0, 1].

    Raises:
        ShapefirstError: As `to_rgb`; or the array is of another shape, of other numbers, or not finite.
    """
    if isinstance(picture, Image.Image):
        grey = _deep_grey(picture)
        values = np.asarray(to_rgb(picture)) / 255 if grey is None else grey
    else:
        values = _unit_of_array(numbers_of(picture, "An image"))
    if values.ndim == 2:
        values = values[..., None]
    return np.broadcast_to(values, (*values.shape[:2], 3))


def numbers_of(value: object, what: str, dtype: Any = None) -> np.ndarray:
    """An array, a tensor on the CPU or nested lists, as an array.

    Raises:
        ShapefirstError: It is none of these.
    """
    try:
        return np.asarray(value, dtype=dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ShapefirstError(f"{what} is an array of numbers, or a tensor on the CPU, not {said(value)}.") from None


def _unit_of_array(values: np.ndarray) -> np.ndarray:
    shape, kind = values.shape, values.dtype
    if not values.size or len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)):
        raise ShapefirstError(f"An image of the shape {shape} is not (height, width, 3), nor grey (height, width).")
    if kind == np.uint8:
        return values / 255
    if kind == np.bool_:
        return values.astype(np.float64)
    if kind.kind != "f":
        raise ShapefirstError(
            f"An image of {kind} does not say which of its numbers is white: give uint8, or floats from 0 to 1."
        )
    values = values.astype(np.float64)
    if not _is_unit(values):
        raise ShapefirstError(f"An image of floats lies from 0 (black) to 1 (white), and this one {_range(values)}.")
    return values


def _deep_grey(image: Image.Image) -> np.ndarray | None:
    """(height, width) float64 in [0, 1] of grey with more than 8 bits; None of other pictures."""
    try:
        image.load()
    except Exception as error:  # as above: what a user has opened may be read only now
        raise _damaged(_called(image), error) from error
    if image.mode not in (*_SIXTEEN, "I", "F"):
        return None
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == 0:
        raise _refused(image, "its white is 0 and its black the largest number, so invert it first")
    values = np.asarray(image)
    if "transparency" in image.info and (values == image.info["transparency"]).any():
        raise _transparent(image)
    if image.mode == "F":
        if not _is_unit(values):
            raise _refused(image, f"floats lie from 0 (black) to 1 (white), and this one {_range(values)}")
        return values.astype(np.float64)
    # Pillow before 11 opens 16 bits of grey as "I", which elsewhere are integers of any size.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise _refused(image, "integers of 32 bits do not say which is white, so save it with 8 or 16 bits a channel")
    return values / (2.0 ** tags.get(_BITS, (16,))[0] - 1)


def _is_unit(values: np.ndarray) -> bool:
    return bool((values >= -_ROUNDING).all() and (values <= 1 + _ROUNDING).all())


def _range(values: np.ndarray) -> str:
    if not np.isfinite(values).all():
        return "holds some that are not finite"
    return f"goes from {values.min():g} to {values.max():g}"


def _called(image: Image.Image) -> str:
    return str(getattr(image, "filename", "")) or f"of mode {image.mode}"


def _transparent(image: Image.Image) -> ShapefirstError:
    return _refused(image, "some of its pixels are transparent, so lay it on a background first")


def _refused(image: Image.Image, why: str) -> ShapefirstError:
    return ShapefirstError(f"Cannot use the image {_called(image)!r}: {why}.")


def _damaged(name: str, error: Exception) -> ShapefirstError:
    return ShapefirstError(f"Cannot read the image {name!r} ({first_line(error)}): mend it, or take it away.")
