"""Captions as MS-COCO (Lin et al. 2014, arXiv 1405.0312) and others keep them.

    {"annotations": [{"image_id": 1, "caption": "A dog"}, ...]}                 MS-COCO's own JSON
    {"images": [{"cocoid": 1, "sentences": [{"raw": "A dog"}, ...]}, ...]}      Karpathy's
    {"image_id": 1, "caption": "A dog"}                                         JSON Lines, or a list of such
    image_id,caption                                                            a table, by commas or tabs

In the last two the caption is called prompt, caption or text, and what shows the photograph may be missing.

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
from collections.abc import Iterable, Iterator, Sequence
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
        path: ``captions_val2014.json`` or its like; see the module.
        size: All of them for None.
        seed: Of the draw, also of which of a photograph's captions it is.

    Raises:
        ShapefirstError: The file cannot be read, is none of these, holds no caption or something else instead of one.
    """
    text = read_text(path, "captions")
    read = _from_json if text.lstrip().startswith(("{", "[")) else _from_table
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
    check_prompt(text, f"The caption of {caption.place} of {place_of(path)}")
    if is_data(text):
        raise _wrong(caption.place, text, path)
    return caption._replace(text=text)


def _from_table(text: str, path: Path | str) -> Iterator[_Caption]:
    separator = "\t" if "\t" in text.lstrip().partition("\n")[0] else ","
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        names = rows.fieldnames or ()
        column = _column(names)
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


def _column(names: Iterable[str]) -> str:
    """The one with the caption, however it is spelled; "" if there is none."""
    known = {name.strip().casefold(): name for name in names}
    return next((known[name] for name in CAPTION_COLUMNS if name in known), "")


def _from_json(text: str, path: Path | str) -> Iterator[_Caption]:
    content = _parsed(text, path)
    if isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" not in content:
        yield from _of_karpathy(content["images"], path)
        return
    is_official = isinstance(content, dict) and not _column(content)
    items = content.get("annotations") if is_official else content if isinstance(content, list) else [content]
    if not isinstance(items, list):
        raise _unreadable(path, "it lacks MS-COCO's list of annotations, each with image_id and caption")
    for n, item in enumerate(items, start=1):
        place = f"annotation {n}" if is_official else f"entry {n}"
        column = _column(item) if isinstance(item, dict) else ""
        if not column or (is_official and "image_id" not in item):
            needed = "MS-COCO's image_id and caption" if is_official else "a prompt, caption or text"
            raise _unreadable(path, f"{place} lacks {needed}: {_said(item)}")
        photograph, caption = item.get("image_id", ""), item[column]
        if not isinstance(photograph, int | str) or isinstance(photograph, bool):
            raise _unreadable(path, f"{place} has {_said(photograph)} for its image_id, not a number or text")
        if not isinstance(caption, str):
            raise _wrong(place, caption, path)
        yield _Caption(place, str(photograph), caption)


def _of_karpathy(images: Sequence[Any], path: Path | str) -> Iterator[_Caption]:
    for n, image in enumerate(images, start=1):
        place = f"image {n}"
        sentences = image.get("sentences") if isinstance(image, dict) else None
        if not isinstance(sentences, list) or not all(isinstance(one, dict) and "raw" in one for one in sentences):
            raise _unreadable(path, f"{place} lacks sentences, each with its raw text: {_said(image)}")
        for sentence in sentences:
            if not isinstance(sentence["raw"], str):
                raise _wrong(place, sentence["raw"], path)
            yield _Caption(place, place, sentence["raw"])


def _parsed(text: str, path: Path | str) -> Any:
    """What JSON says, or a list of what its lines say."""
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):
                raise
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"it is not JSON ({first_line(error)})") from error


def _wrong(place: str, found: Any, path: Path | str) -> ShapefirstError:
    return _unreadable(path, f"{place} has {_said(found)} where the text of one caption should be")


def _said(value: Any) -> str:
    return shortened(json.dumps(value))


def _unreadable(path: Path | str, why: str) -> ShapefirstError:
    return ShapefirstError(f"Cannot read captions from {place_of(path)}: {why}.")
