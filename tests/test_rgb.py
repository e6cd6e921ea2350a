"""Any picture becomes 8-bit RGB as it looks, or is refused in one sentence; none becomes black and white by chance."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import scorers
from PIL import Image

import shapefirst
from shapefirst.drawing.overlays import heat, overlay
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.errors import ShapefirstError
from shapefirst.measure import Moments, difference, l1, psnr, ssim
from shapefirst.measure.clip import load_clip
from shapefirst.measure.inception import Inception
from shapefirst.measure.rgb import read_rgb, to_rgb, unit
from shapefirst.measure.scores import features_for
from shapefirst.measure.shapes import silhouette_of
from shapefirst.measure.spectrum import pixels
from shapefirst.measure.vlm import load_vlm
from shapefirst.measure.vqa import load_vqa
from shapefirst.prompts import Prompt
from shapefirst.sweep import reference
from shapefirst.sweep.work import Scorers

RAMP = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
NEAREST = np.rint(RAMP.astype(np.float64) * 255 / 65535)  # what 8 bits can say of it


def png(path, values, colour_type, extra=b""):
    """A PNG of 16 bits a channel, written by hand: values (height, width, channels)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def levels(image):
    assert image.mode == "RGB"
    return np.asarray(image).astype(float)


@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
def test_sixteen_bits_a_channel_keep_their_grey(tmp_path, colour_type):
    colours, alpha = {0: (1, 0), 2: (3, 0), 4: (1, 1), 6: (3, 1)}[colour_type]
    values = np.stack([RAMP] * colours + [np.full_like(RAMP, 65535)] * alpha, axis=-1)
    found = levels(read_rgb(png(tmp_path / "ramp.png", values, colour_type)))
    # Pillow leaves out the lower 8 bits of colour, which may be one level; of grey the nearest level is had.
    assert np.abs(found - NEAREST[..., None]).max() <= (0 if colour_type == 0 else 1)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_of_a_tiff_do_too(tmp_path, mode):
    order = "<u2" if mode == "I;16" else ">u2"
    Image.frombytes(mode, (16, 16), RAMP.astype(order).tobytes()).save(tmp_path / "ramp.tif")
    for image in (
        read_rgb(tmp_path / "ramp.tif"),
        to_rgb(Image.frombytes(mode, (16, 16), RAMP.astype(order).tobytes())),
    ):
        assert (levels(image) == NEAREST[..., None]).all()


def test_integers_are_sixteen_bits_where_the_file_says_so_and_else_refused(tmp_path):
    image = Image.fromarray(RAMP.astype(np.int32))
    assert image.mode == "I"
    with pytest.raises(ShapefirstError, match=r"of mode I'.*do not say which is white"):
        to_rgb(image)
    image.save(tmp_path / "ramp.tif")
    with pytest.raises(ShapefirstError, match=r"ramp\.tif.*do not say which is white"):
        read_rgb(tmp_path / "ramp.tif")
    image.format = "PNG"  # as Pillow before 11 opens one of 16 bits
    assert (levels(to_rgb(image)) == NEAREST[..., None]).all()


def tiff(path, values, bits, photometric):
    """An uncompressed TIFF of one channel, written by hand; 12 bits are packed."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint32)
        packed = pairs[:, 0] << 12 | pairs[:, 1]
        data = b"".join(int(p).to_bytes(3, "big") for p in packed)
    else:
        data = values.astype("<u2").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, height), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 4 + data)
    return path


def test_twelve_bits_are_white_at_4095_and_inverted_ones_are_refused(tmp_path):
    twelve = RAMP >> 4
    found = levels(read_rgb(tiff(tmp_path / "twelve.tif", twelve, 12, 1)))
    assert (found == np.rint(twelve * (255 / 4095))[..., None]).all()
    assert (levels(read_rgb(tiff(tmp_path / "sixteen.tif", RAMP, 16, 1))) == NEAREST[..., None]).all()
    with pytest.raises(ShapefirstError, match="white is 0"):
        read_rgb(tiff(tmp_path / "inverted.tif", RAMP, 16, 0))


def test_floats_lie_from_0_to_1_or_are_refused(tmp_path):
    x = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(x).save(tmp_path / "ramp.tif")
    assert (levels(read_rgb(tmp_path / "ramp.tif")) == np.arange(256).reshape(16, 16, 1)).all()
    for wrong, why in ((x * 255, "goes from 0 to 255"), (x - 0.5, "from -0.5 to 0.5"), (x + np.inf, "not finite")):
        with pytest.raises(ShapefirstError, match=why):
            to_rgb(Image.fromarray(wrong))


EIGHT = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_opaque_pictures_of_every_mode_are_what_pillow_shows(mode):
    image = Image.fromarray(EIGHT).convert("L").convert("PA") if mode == "PA" else Image.fromarray(EIGHT).convert(mode)
    assert to_rgb(image).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pixels_that_something_shines_through_are_refused(tmp_path, mode):
    path = tmp_path / "hole.png"
    if mode == "I;16":
        png(path, RAMP[..., None], 0, struct.pack(">I4sH", 2, b"tRNS", 0) + struct.pack(">I", zlib.crc32(b"tRNS\0\0")))
    elif mode in ("LA", "RGBA"):
        image = Image.fromarray(EIGHT).convert(mode)
        image.putalpha(254)
        image.save(path)
    else:
        image = Image.new(mode, (4, 4))
        image.save(path, transparency={"RGB": (0, 0, 0)}.get(mode, 0))
    with pytest.raises(ShapefirstError, match=r"hole\.png': some of its pixels are transparent"):
        read_rgb(path)


def test_a_transparent_colour_that_no_pixel_has_takes_nothing_away(tmp_path):
    image = Image.fromarray(EIGHT).convert("P")
    unused = next(i for i in range(256) if i not in set(np.asarray(image).ravel().tolist()))
    image.save(tmp_path / "palette.png", transparency=unused)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rgb(tmp_path / "palette.png").tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_a_file_of_several_pictures_is_refused_as_it_is_not_said_which(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(3)]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(ShapefirstError, match=r"moving.*it holds 3 pictures"):
        read_rgb(path)
    with Image.open(path) as image:
        image.seek(2)
        assert to_rgb(image).getpixel((0, 0))[0] > 70  # the frame at which it stands


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp", "ppm"])
def test_a_damaged_file_gives_a_picture_or_one_sentence(tmp_path, suffix):
    dice = random.Random(suffix)
    Image.fromarray(EIGHT).resize((40, 40)).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    path, refused = tmp_path / f"damaged.{suffix}", 0
    for turn in range(60):
        content = bytearray(whole)
        if turn % 2:
            for _ in range(dice.randint(1, 8)):
                content[dice.randrange(min(len(content), 200))] = dice.randrange(256)
        else:
            del content[dice.randrange(len(content)) :]
        path.write_bytes(content)
        said = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert read_rgb(path).mode == "RGB"
            except ShapefirstError as error:
                said = str(error)
        if said is not None:
            refused += 1
            assert str(path) in said
            assert "\n" not in said
    assert refused > 10


@pytest.mark.parametrize("distance", [l1, psnr, ssim, difference])
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (RAMP, "uint16 does not say"),
        (RAMP.astype(int), "int64 does not say"),
        (RAMP.astype(np.int8), "int8 does not say"),
        (np.full((16, 16, 3), 255.0), "from 255 to 255"),
        (np.full((16, 16, 3), -1.0), "from -1 to -1"),
        (np.full((16, 16, 3), np.nan), "not finite"),
        (np.full((16, 16, 3), np.inf), "not finite"),
        (np.zeros((16, 16, 3), complex), "complex128"),
        (np.full((16, 16), "a"), "does not say"),
        (np.full((16, 16), None), "object"),
        (np.zeros((3, 16, 16)), r"\(3, 16, 16\) is not"),
        (np.zeros((16, 16, 4), np.uint8), r"\(16, 16, 4\) is not"),
        (np.zeros((1, 16, 16, 3)), "is not"),
        (np.zeros((0, 16, 3)), "is not"),
        (np.zeros(16), "is not"),
        (Image.new("RGBA", (16, 16)), "transparent"),
        (Image.new("LAB", (16, 16)), "mode is LAB"),
    ],
)
def test_no_distance_is_taken_of_numbers_that_may_be_no_picture(distance, wrong, why):
    for pair in ((wrong, np.zeros((16, 16, 3))), (np.zeros((16, 16, 3)), wrong)):
        with pytest.raises(ShapefirstError, match=why):
            distance(*pair)


def test_what_is_black_and_what_is_white_is_the_same_in_every_kind_of_picture():
    kinds = {
        "pictures": [Image.new("RGB", (16, 16), v) for v in ("black", "white")],
        "grey": [Image.new("L", (16, 16), v) for v in (0, 255)],
        "two levels": [Image.new("1", (16, 16), v) for v in (0, 1)],
        "16 bits": [Image.fromarray(np.full((16, 16), v, np.uint16)) for v in (0, 65535)],
        "floats": [Image.fromarray(np.full((16, 16), v, np.float32)) for v in (0, 1)],
        "uint8": [np.full((16, 16, 3), v, np.uint8) for v in (0, 255)],
        "float16": [np.full((16, 16, 1), v, np.float16) for v in (0, 1)],
        "booleans": [np.full((16, 16), v) for v in (False, True)],
    }
    for black, _ in kinds.values():
        for _, white in kinds.values():
            assert l1(black, white) == 1
            assert psnr(black, white) == 0
            assert np.asarray(difference(black, white)).min() == 255


def test_distances_of_sixteen_bits_do_not_lose_them():
    x, y = Image.fromarray(RAMP), Image.fromarray(RAMP ^ 1)
    assert l1(x, y) == pytest.approx(1 / 65535)
    assert unit(x)[..., 0] == pytest.approx(RAMP / 65535)
    assert l1(x, RAMP / 65535) == pytest.approx(0, abs=1e-12)


def readers(folder):
    """Whatever looks at pictures -> what it sees in them."""
    prompt = Prompt.of(("red", "car"), "colour")
    vlm = load_vlm(scorers.llava_folder(folder / "llava"), device="cpu")
    vlm._answers = lambda images, talks, longest: [image.tobytes().hex() for image in images]
    return {
        "clip": load_clip(scorers.clip_folder(folder / "clip"), device="cpu").of_images,
        "blip": lambda images: load_vqa(scorers.blip_folder(folder / "blip"), device="cpu").score(images, [prompt]),
        "vlm": lambda images: vlm.ask(images, [prompt])[0].description,
        "inception": Inception().features,
        "judge": features_for("pocket", None, "cpu")[1],
        "spectrum": pixels,
        "silhouette": lambda images: silhouette_of(images[0]),
        "sheet": lambda images: np.asarray(contact_sheet([[Cell(images[0])]])),
        "heat": lambda images: np.asarray(heat(images[0], np.eye(4))),
        "overlay": lambda images: np.asarray(overlay(images[0], np.eye(4))),
    }


def test_whatever_looks_at_pictures_sees_the_same_in_sixteen_bits_as_in_eight(tmp_path):
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for folder in ("llava", "clip", "blip"):
        (tmp_path / folder).mkdir()
    for name, see in readers(tmp_path).items():
        found = see([Image.fromarray(eight.astype(np.uint16) * 257)])
        assert np.array_equal(found, see([Image.fromarray(eight)])), name
        assert not np.array_equal(found, see([Image.fromarray((eight > 0) * np.uint8(255))])), name


def test_no_other_place_reads_or_converts_pictures():
    home = Path(shapefirst.__file__).parent
    texts = {str(path.relative_to(home)): path.read_text(encoding="utf-8") for path in home.rglob("*.py")}
    assert {name for name, text in texts.items() if 'convert("RGB")' in text} == {"measure/rgb.py"}
    # The other two read the settings in a PNG, and the transparency of pocket's own silhouettes.
    opening = {name for name, text in texts.items() if "with Image.open(" in text or "= Image.open(" in text}
    assert opening == {"measure/rgb.py", "images/outputs.py", "world/paint.py"}


@pytest.fixture
def statistics_of(monkeypatch):
    """The reference statistics of a folder, in features that are the pixels themselves."""
    features = lambda images: np.stack([np.asarray(image, float).ravel() for image in images])  # noqa: E731
    monkeypatch.setattr(reference, "frechet_features", lambda *_: ("pixels", features))
    progress = lambda what, total: contextlib.nullcontext(lambda done: None)  # noqa: E731

    class Pocket:
        model = "pocket"

    return lambda folder: reference.reference_from(folder, Scorers(), None, progress).statistics(Pocket)


def test_no_picture_of_a_reference_folder_is_passed_over_in_silence(tmp_path, statistics_of):
    for name in ("0.png", "1.PNG", "2.webp", "3.BMP", "4.gif", "5.tga", "within/6.TIFF"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (int(name.rpartition("/")[2][0]) * 20, 9, 9)).save(tmp_path / name)
    for other in ("captions.txt", "array.npy", ".DS_Store"):
        (tmp_path / other).write_text("")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    taken = reference.reference_from(tmp_path, Scorers(), None, None)
    assert taken.title == f"the 7 images in {tmp_path} (3 other files left out)"
    assert statistics_of(tmp_path).count == 7
    (tmp_path / "7.heic").write_text("")
    with pytest.raises(ShapefirstError, match=r"Images such as '.*7\.heic' are not read and would be missing"):
        statistics_of(tmp_path)


@pytest.mark.parametrize("name", ["array.npy", "one.png", "pipe", "loop", "damaged.npz"])
def test_what_is_no_reference_is_refused(tmp_path, name):
    np.save(tmp_path / "array.npy", np.zeros(3))
    Image.new("RGB", (4, 4)).save(tmp_path / "one.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "damaged.npz").write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(ShapefirstError, match=name):
        reference.reference_from(tmp_path / name, Scorers(), None, None)


def test_a_reference_folder_may_hold_pictures_of_any_kind(tmp_path, statistics_of):
    dice = np.random.default_rng(0)
    greys = dice.integers(0, 256, (6, 5, 5), dtype=np.uint8)
    for i, grey in enumerate(greys):
        sixteen = grey.astype(np.uint16) * 257
        if i < 2:
            Image.fromarray(sixteen).save(tmp_path / f"{i}.png")
        elif i < 4:
            Image.fromarray(sixteen).save(tmp_path / f"{i}.TIFF")
        else:
            Image.fromarray(grey).save(tmp_path / f"{i}.{('bmp', 'gif')[i % 2]}")
    found = statistics_of(tmp_path)
    expected = Moments.of(np.repeat(greys.reshape(6, 25), 3, axis=1).astype(float))
    assert found.count == 6
    np.testing.assert_array_equal(found.total, expected.total)
    np.testing.assert_array_equal(found.products, expected.products)


def test_a_reference_picture_that_cannot_be_used_is_named(tmp_path, statistics_of):
    for i in range(3):
        Image.fromarray(EIGHT).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:100])
    with pytest.raises(ShapefirstError, match=r"1\.png' \(.*\): mend it, or take it away"):
        statistics_of(tmp_path)


def test_a_file_larger_than_any_picture_is_not_read(tmp_path):
    """Some decoders would read it as a whole."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp")
    os.truncate(tmp_path / "a.webp", 3 * 1024**3)
    with pytest.raises(ShapefirstError, match="it has 3,221,225,472 bytes"):
        read_rgb(tmp_path / "a.webp")
