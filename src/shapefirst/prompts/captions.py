"""MS-COCO captions (Lin et al. 2014, arXiv 1405.0312): the official JSON, or a CSV with a column of prompts.

The paper samples one image for each of 30,000 captions of the validation set. We draw no two captions of one
photograph where the file says which photograph a caption describes.
"""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Final, NamedTuple

from shapefirst.errors import ShapefirstError
from shapefirst.prompts.lines import read_text
from shapefirst.prompts.prompt import Prompt
from shapefirst.prompts.promptset import sample

__all__ = ["PAPER_CAPTIONS", "read_captions"]

PAPER_CAPTIONS: Final = 30_000

_COLUMNS = ("prompt", "caption")


class _Caption(NamedTuple):
    photograph: str  # "" if unknown
    text: str


def read_captions(path: Path | str, size: int | None = PAPER_CAPTIONS, seed: int = 0) -> list[Prompt]:
    """At most ``size`` captions, one a photograph, in the order of the file.

    Args:
        path: ``captions_val2014.json`` or its like, or a CSV with a column ``prompt`` or ``caption`` and, where known,
            ``image_id``.
        size: All of them for None.
        seed: Of the draw, also of which of a photograph's captions it is.

    Raises:
        ShapefirstError: The file cannot be read, is neither of the two or holds no caption.
    """
    text = read_text(path, "captions")
    captions = _from_json(text, path) if text.lstrip().startswith(("{", "[")) else _from_csv(text, path)
    captions = [_Caption(photograph, " ".join(text.split())) for photograph, text in captions if text.strip()]
    if not captions:
        raise ShapefirstError(f"There is no caption in {str(path)!r}.")
    order = list(range(len(captions)))
    random.Random(seed).shuffle(order)
    first = {captions[i].photograph or f"line {i}": i for i in reversed(order)}
    return [Prompt(captions[i].text, (), "coco") for i in sample(sorted(first.values()), size, seed)]


def _from_csv(text: str, path: Path | str) -> list[_Caption]:
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ShapefirstError(f"Cannot read captions from {str(path)!r}: it is not CSV ({error}).") from error
    column = next((name for name in _COLUMNS if rows and name in rows[0]), None)
    if rows and column is None:
        raise ShapefirstError(f"Cannot read captions from {str(path)!r}: no column is called 'prompt' or 'caption'.")
    return [_Caption(row.get("image_id") or "", row[column] or "") for row in rows if column]


def _from_json(text: str, path: Path | str) -> list[_Caption]:
    try:
        return [_Caption(str(item["image_id"]), str(item["caption"])) for item in json.loads(text)["annotations"]]
    except json.JSONDecodeError as error:
        raise ShapefirstError(f"Cannot read captions from {str(path)!r}: it is not JSON ({error}).") from error
    except (KeyError, TypeError) as error:
        raise ShapefirstError(
            f"Cannot read captions from {str(path)!r}: it lacks MS-COCO's annotations, each with image_id and caption."
        ) from error
