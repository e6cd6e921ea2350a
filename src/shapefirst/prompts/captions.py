"""MS-COCO captions (Lin et al. 2014, arXiv 1405.0312): the official JSON, or a CSV with a column of prompts.

The paper samples one image for each of 30,000 captions of the validation set. We draw no two captions of one
photograph where the file says which photograph a caption describes. A caption is text: blank ones are skipped, and what
else stands in the place of one (null, a list, tokens, a number) is refused, as are whole files of another layout.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from shapefirst.checks import check_prompt
from shapefirst.errors import ShapefirstError, first_line, shortened
from shapefirst.prompts.lines import CAPTION_COLUMNS, is_data, place_of, read_text
from shapefirst.prompts.prompt import Prompt
from shapefirst.prompts.promptset import sample

__all__ = ["PAPER_CAPTIONS", "read_captions"]

PAPER_CAPTIONS: Final = 30_000

_NUMBER: Final = re.compile(r"[-+]?\d+(?:[.,]\d+)*")


class _Caption(NamedTuple):
    place: str  # in the file, for a sentence
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
        ShapefirstError: The file cannot be read, is neither of the two, holds no caption or something else instead of
            one.
    """
    text = read_text(path, "captions")
    read = _from_json if text.lstrip().startswith(("{", "[")) else _from_csv
    captions = [_checked(caption, path) for caption in read(text, path)]
    captions = [caption for caption in captions if caption.text.strip("# ")]
    if not captions:
        raise ShapefirstError(f"There is no caption in {place_of(path)}.")
    order = list(range(len(captions)))
    random.Random(seed).shuffle(order)
    first = {captions[i].photograph or i: i for i in reversed(order)}
    return [Prompt(captions[i].text, (), "coco") for i in sample(sorted(first.values()), size, seed)]


def _checked(caption: _Caption, path: Path | str) -> _Caption:
    """The caption with one blank for each white space."""
    text = " ".join(caption.text.split())
    if is_data(text):
        raise _wrong(caption.place, text, path)
    check_prompt(text, f"The caption of {caption.place} of {place_of(path)}")
    return caption._replace(text=text)


def _from_csv(text: str, path: Path | str) -> Iterator[_Caption]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = rows.fieldnames or ()
        column = next((name for name in CAPTION_COLUMNS if name in names), "")
        if names and not column:
            raise _unreadable(path, f"no column is called {' or '.join(map(repr, CAPTION_COLUMNS))}")
        for n, row in enumerate(rows, start=1):
            cells = sum(cell is not None for cell in row.values()) + len(row.get(None, [None])) - 1
            if cells != len(names):
                why = f"row {n} has {cells} of the header's {len(names)} cells; a caption with a comma needs quotes"
                raise _unreadable(path, why)
            if _NUMBER.fullmatch(row[column].strip()):
                raise _wrong(f"row {n}", row[column], path)
            yield _Caption(f"row {n}", row.get("image_id") or "", row[column])
    except csv.Error as error:
        raise _unreadable(path, f"it is not CSV ({error})") from error


def _from_json(text: str, path: Path | str) -> Iterator[_Caption]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"it is not JSON ({first_line(error)})") from error
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise _unreadable(path, "it lacks MS-COCO's list of annotations, each with image_id and caption")
    for n, item in enumerate(annotations, start=1):
        place = f"annotation {n}"
        if not isinstance(item, dict) or not {"image_id", "caption"} <= item.keys():
            raise _unreadable(path, f"{place} lacks MS-COCO's image_id and caption: {_said(item)}")
        photograph, caption = item["image_id"], item["caption"]
        if not isinstance(photograph, int | str) or isinstance(photograph, bool):
            raise _unreadable(path, f"{place} has {_said(photograph)} for its image_id, not a number or text")
        if not isinstance(caption, str):
            raise _wrong(place, caption, path)
        yield _Caption(place, str(photograph), caption)


def _wrong(place: str, found: Any, path: Path | str) -> ShapefirstError:
    return _unreadable(path, f"{place} has {_said(found)} where the text of one caption should be")


def _said(value: Any) -> str:
    return shortened(json.dumps(value))


def _unreadable(path: Path | str, why: str) -> ShapefirstError:
    return ShapefirstError(f"Cannot read captions from {place_of(path)}: {why}.")
