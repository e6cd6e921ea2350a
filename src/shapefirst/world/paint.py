"""How pocket's world looks: silhouettes, paints and backgrounds. Every paint is procedural.

A *sprite* is one object, straight (not premultiplied) RGBA, drawn at ``SUPERSAMPLE`` times its final size. It is a
function of attribute, noun and size alone: the world varies by what is in a picture and where, not by noise in the
paint, so that a small model spends its capacity on shape.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from shapefirst.world.vocabulary import COLOURS, ICONS

Array = NDArray[np.float32]

SUPERSAMPLE = 2
_FINE = 4  # paints are computed at this many samples a pixel, then averaged down


@cache
def silhouette(noun: str) -> Image.Image:
    """The noun's icon, 512 pixels across its longer side, cropped to its bounding box: mode "L", 255 inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # some slugs are deprecated in favour of a synonym
        import resvg_py
        from material_design_icons_pack import get_icon

        icon = get_icon(ICONS[noun])
    if icon is None:
        raise LookupError(
            f"material-design-icons-pack has no icon {ICONS[noun]!r}: install the version in constraints.txt"
        )
    png = bytes(resvg_py.svg_to_bytes(svg_string=icon.svg, width=512, height=512))
    alpha = Image.open(io.BytesIO(png)).getchannel("A")
    alpha = alpha.crop(alpha.getbbox())
    scale = 512 / max(alpha.size)
    return alpha.resize((round(alpha.width * scale), round(alpha.height * scale)), Image.Resampling.LANCZOS)


def _fit(noun: str, side: int) -> Array:
    """(side, side) coverage of the silhouette, centred, its longer side filling the square."""
    icon = silhouette(noun)
    scale = side / max(icon.size)
    icon = icon.resize((max(1, round(icon.width * scale)), max(1, round(icon.height * scale))), Image.Resampling.BOX)
    out = Image.new("L", (side, side))
    out.paste(icon, ((side - icon.width) // 2, (side - icon.height) // 2))
    return np.asarray(out, np.float32) / 255


def _blur(mask: Array, sigma: float) -> Array:
    image = Image.fromarray((mask * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)), np.float32) / 255


def _mix(a: Array | tuple[float, ...], b: Array | tuple[float, ...], t: Array) -> Array:
    """Linear blend of two 8-bit colours by ``t`` in [0, 1], as floats in [0, 1]."""
    a_, b_ = np.asarray(a, np.float32) / 255, np.asarray(b, np.float32) / 255
    return a_ + (b_ - a_) * np.clip(t, 0, 1)[..., None]


def _wooden(x: Array, y: Array, _: Array) -> Array:
    grain = np.sin(2 * np.pi * (y / 8 + 0.35 * np.sin(2 * np.pi * x / 34)))
    return _mix((222, 172, 104), (142, 88, 40), 0.5 + 0.5 * grain)


def _metallic(x: Array, y: Array, _: Array) -> Array:
    phase = ((x + 2.2 * y) / 40) % 1
    return _mix((74, 84, 98), (246, 250, 254), np.abs(2 * phase - 1) ** 1.5)


def _glass(x: Array, y: Array, _: Array) -> Array:
    streak = (np.abs(((x + y) % 26) - 7) < 3).astype(np.float32)
    return _mix((150, 216, 232), (255, 255, 255), streak)


def _fabric(x: Array, y: Array, _: Array) -> Array:
    warp, weft = ((x % 10) < 5).astype(np.float32), ((y % 10) < 5).astype(np.float32)
    return _mix((240, 230, 214), (168, 34, 72), (warp + weft) / 2)


def _leather(x: Array, y: Array, depth: Array) -> Array:
    body = _mix((112, 50, 26), (70, 28, 16), y / 52)
    dashes = ((x - y) % 6 < 3.6) & (depth > 0.80) & (depth < 0.965)
    return np.where(dashes[..., None], np.float32([238, 198, 138]) / 255, body).astype(np.float32)


def _rubber(x: Array, y: Array, _: Array) -> Array:
    tread = ((y + np.abs((x % 14) - 7)) % 8) < 3.2
    return _mix((44, 46, 52), (128, 132, 140), tread.astype(np.float32))


def _plastic(x: Array, y: Array, _: Array) -> Array:
    shade = _mix((24, 214, 204), (0, 140, 150), y / 52)
    dot = ((x % 10) - 5) ** 2 + ((y % 10) - 5) ** 2 < 6.5
    return np.where(dot[..., None], np.float32([196, 255, 248]) / 255, shade).astype(np.float32)


def _fluffy(x: Array, y: Array, _: Array) -> Array:
    tufts = np.sin(2 * np.pi * (x / 8 + 0.5 * np.floor(y / 9))) * np.sin(np.pi * (y % 9) / 9)
    return _mix((255, 246, 226), (188, 148, 104), 0.35 + 0.5 * tufts)


_TEXTURES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "wooden": _wooden,
    "metallic": _metallic,
    "glass": _glass,
    "fabric": _fabric,
    "leather": _leather,
    "rubber": _rubber,
    "plastic": _plastic,
    "fluffy": _fluffy,
}


def _colour(attribute: str, y: Array, side: float) -> Array:
    """A flat paint, slightly lit from above; the lamp keeps black off 0 and white off the rim's contrast."""
    light = 0.12 - 0.24 * y / side
    base = np.asarray(COLOURS[attribute], np.float32) / 255
    return np.where(light[..., None] > 0, base + (1 - base) * light[..., None], base * (1 + light[..., None]))


@lru_cache(maxsize=8192)
def sprite(attribute: str, noun: str, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The object ``size`` pixels across: RGBA (s, s, 4) and its silhouette (s, s), uint8, s = (size + 8) * SUPERSAMPLE.

    The margin of 4 pixels a side is for fur. The silhouette is the true mask of the object, without transparency.
    """
    side = size + 8
    fine = side * _FINE
    mask = np.zeros((fine, fine), np.float32)
    mask[4 * _FINE : -4 * _FINE, 4 * _FINE : -4 * _FINE] = _fit(noun, size * _FINE)
    y, x = (np.indices((fine, fine), np.float32) + 0.5) / _FINE - 4
    scale = 50 / size if size < 40 else 1.0  # small objects carry the same pattern, a little finer
    if scale > 1:
        x, y = x * scale**0.6, y * scale**0.6
    if attribute == "fluffy":
        # Fur stands out of the outline: move the blurred edge in and out by a zigzag around the object.
        angle = np.arctan2(y - y.mean(), x - x.mean())
        spikes = np.abs(((angle / (2 * np.pi) * 34) % 1) * 2 - 1)
        mask = np.clip((_blur(mask, 1.5 * _FINE) - 0.52 + 0.34 * spikes) * 8, 0, 1).astype(np.float32)
    depth = np.clip((_blur(mask, 1.6 * _FINE) - 0.5) * 2, 0, 1)  # 0 at the edge, 1 about three pixels inside
    rgb = _TEXTURES[attribute](x, y, depth) if attribute in _TEXTURES else _colour(attribute, y, size)
    rim = 1 - 0.38 * np.clip(1 - depth / 0.55, 0, 1)
    opacity = mask
    if attribute == "glass":
        opacity = mask * np.clip(0.62 + 0.5 * (1 - depth) + 0.5 * (rgb[..., 0] > 0.9), 0, 1)
    rgb = rgb * rim[..., None]
    block = _FINE // SUPERSAMPLE

    def average(a: Array) -> NDArray[np.uint8]:
        a = a.reshape(fine // block, block, fine // block, block, -1).mean((1, 3)).squeeze()
        return (np.clip(a, 0, 1) * 255 + 0.5).astype(np.uint8)

    return average(np.concatenate([rgb, opacity[..., None]], -1)), average(mask)


#: name -> (top, bottom) of the wall; every background is a wall with a lit floor or a plain gradient.
BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "sky": ((142, 190, 224), (196, 222, 238)),
    "sand": ((222, 204, 170), (196, 172, 134)),
    "mint": ((168, 212, 188), (130, 184, 158)),
    "lavender": ((198, 188, 222), (166, 156, 200)),
    "peach": ((240, 200, 178), (222, 170, 148)),
    "stone": ((188, 190, 194), (152, 156, 162)),
    "slate": ((112, 126, 146), (84, 98, 118)),
    "cream": ((238, 230, 206), (216, 204, 174)),
}


@lru_cache(maxsize=64)
def background(name: str, floor: bool, size: int) -> Array:
    """(size, size, 3) in [0, 1]: a vertical gradient, or a wall over a floor with a clean edge."""
    top, bottom = BACKGROUNDS[name]
    v = np.linspace(0, 1, size, dtype=np.float32)[:, None] * np.ones((1, size), np.float32)
    if not floor:
        return _mix(top, bottom, v)
    wall = _mix(top, bottom, 0.35 * v)
    ground = _mix(bottom, tuple(0.72 * c for c in bottom), (v - 0.72) / 0.28)
    return np.where((v > 0.72)[..., None], ground, wall).astype(np.float32)
