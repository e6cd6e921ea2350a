"""Good files of every kind that commands read, made once; and what becomes of them: cut, changed, mixed up, gone."""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fuzz.folders import LAID_OUT

__all__ = ["DAMAGES", "damaged", "put_stock", "stock"]

PROMPTS = ("a red car", "a wooden house", "a fluffy rabbit", "a metallic rocket")


@cache
def stock() -> Path:
    """The folder of the good ones."""
    from shapefirst.models.catalogue import POCKET

    folder = Path(tempfile.mkdtemp(prefix="fuzz-stock-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    lines = "".join(f"{prompt}\n" for prompt in PROMPTS)
    (folder / "prompts.txt").write_text(lines)
    (folder / "prompts.csv").write_text(f"caption\n{lines}")
    (folder / "pairs.tsv").write_text("a red car\ta wooden house\na fluffy rabbit\ta metallic rocket\n")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    annotations = [{"image_id": n, "id": n, "caption": prompt} for n, prompt in enumerate(PROMPTS)]
    (folder / "captions.json").write_text(json.dumps({"annotations": annotations}))
    (folder / "grid.toml").write_text(
        'models = ["pocket"]\nsamplers = ["ddim"]\nsteps = [2]\ntext_steps = ["0:2:1"]\nkeep = ["null"]\n'
        'policies = ["every:2"]\nguidance_scale = [4.0]\nprompts = "prompts.txt"\ncount = 2\nseed = 0\n'
    )
    _pictures(folder)
    _results(folder)
    shutil.copytree(POCKET, folder / "pocket")
    return folder


def _pictures(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (folder / "pictures").mkdir()
    for number, kind in enumerate(("png", "jpeg", "webp", "tiff")):
        Image.fromarray(pixels + number).save(folder / "pictures" / f"{number}.{kind}")
    np.savez(folder / "statistics.npz", mu=np.zeros(8), sigma=np.eye(8))
    np.save(folder / "array.npy", pixels)


def _results(folder: Path) -> None:
    from typer.testing import CliRunner

    from fuzz import stored
    from shapefirst import load
    from shapefirst.cli.app import app
    from shapefirst.policies.file import model_digest, sampler_digest

    small = ("--steps", "2", "--text-steps", "1", "--count", "2")
    run = ("sweep", "run", *small, "--images", "all", "--out", str(folder / "sweep"))
    result = CliRunner().invoke(app, run)
    assert result.exit_code == 0, result.output
    stored.finding(folder / "studies")
    pipe = load("pocket")
    digests = (model_digest(pipe), type(pipe.scheduler).__name__, sampler_digest(pipe.scheduler))
    stored.policy(folder / "policy.json", *digests)


def put_stock(folder: Path, *names: str) -> None:
    """Copies of some, or of all but the model."""
    for name in names or {path.name for path in stock().iterdir()} - {"pocket", "functions", *LAID_OUT}:
        source = stock() / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder / name)


JUNK: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 0.5, -0.0, 1e308, 10**20, 10**400, math.nan, math.inf, -math.inf),
    *("", " ", "x" * 300, "x" * 100_000, "9" * 5000, "\x1b[31mred", "a\nb", "\ud800", "../..", "/etc/passwd", "nan"),
    *("<script>", "[bold]", "a|b", "pocket", [], {}, [[]], {"": ""}, [None], ["x"], [1.5], {"x": 1}, [0] * 10_000),
)


def _changed(content: Any, random: Random) -> Any:
    """Something in it is another: a value, a key, an entry."""
    if not isinstance(content, dict | list) or not content or random.random() < 0.1:
        return random.choice(JUNK)
    found = dict(content) if isinstance(content, dict) else dict(enumerate(content))
    key = random.choice(list(found))
    how = random.random()
    if how < 0.15:
        del found[key]
    elif how < 0.25:
        found[str(random.choice(JUNK))[:50]] = found[key]
    else:
        found[key] = _changed(found[key], random)
    return found if isinstance(content, dict) else list(found.values())


def _json(content: bytes, random: Random) -> bytes:
    lines = content.decode().splitlines()
    try:
        changed = json.dumps(_changed(json.loads(content), random))
    except ValueError:  # no JSON, or a file with JSON in each line
        if not lines:
            return b"{}"
        number = random.randrange(len(lines))
        try:
            lines[number] = json.dumps(_changed(json.loads(lines[number]), random))
        except ValueError:
            lines[number] = lines[number].replace(
                random.choice(lines[number].split() or [""]), str(random.choice(JUNK))
            )
        changed = "\n".join(lines)
    return changed.encode(errors="surrogatepass")


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _flipped(content: bytes, random: Random) -> bytes:
    found = bytearray(content)
    for _ in range(random.choice((1, 3, 30)) if found else 0):
        found[random.randrange(len(found))] = random.randrange(256)
    return bytes(found)


def _pieces(content: bytes, random: Random) -> bytes:
    """A piece is left out, doubled or moved."""
    first, second = sorted(random.randrange(len(content) + 1) for _ in range(2))
    head, piece, tail = content[:first], content[first:second], content[second:]
    return random.choice((head + tail, head + piece * 2 + tail, tail + piece + head, head + piece[::-1] + tail))


def _filled(content: bytes, random: Random) -> bytes:
    odd = (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"\r", "\u202e".encode(), b"[" * 100_000, b'{"a":' * 5000)
    place = random.randrange(len(content) + 1)
    return content[:place] + random.choice(odd) + content[place:]


def _other(content: bytes, random: Random) -> bytes:
    """Another file's content."""
    files = [path for path in sorted(stock().rglob("*")) if path.is_file()]
    return random.choice((b"", b"\0" * 100, random.randbytes(1000), random.choice(files).read_bytes()))


CONTENTS: tuple[Callable[[bytes, Random], bytes], ...] = (_cut, _flipped, _pieces, _filled, _other)


def _in_place(path: Path, random: Random) -> None:
    content = path.read_bytes()
    text = path.suffix in (".json", ".jsonl", ".toml", ".txt", ".csv", ".tsv")
    changes = (*CONTENTS, *(_json,) * 6) if text else CONTENTS
    path.write_bytes(random.choice(changes)(content, random))


def _gone(path: Path, random: Random) -> None:
    path.unlink()
    random.choice((lambda: None, path.mkdir, lambda: path.symlink_to("nowhere"), lambda: path.symlink_to(path.name)))()


def _large(path: Path, random: Random) -> None:
    """More than a text, a table or a picture may have, of which the disk keeps nothing."""
    os.truncate(path, 3 * 1024**3)


def _doubled(path: Path, random: Random) -> None:
    """As synchronised folders leave it."""
    shutil.copy(path, path.with_name(f"{path.stem} (1){path.suffix}"))
    shutil.copy(path, path.with_name(f"._{path.name}"))


DAMAGES: tuple[Callable[[Path, Random], None], ...] = (*(_in_place,) * 12, _gone, _large, _doubled)


def damaged(folder: Path, random: Random, most: int = 2) -> None:
    """Does something to some of the files below ``folder``."""
    for _ in range(random.randint(1, most)):
        if files := sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
            random.choice(DAMAGES)(random.choice(files), random)
