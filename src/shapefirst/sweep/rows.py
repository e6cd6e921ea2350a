"""What a shard leaves as its table, one row for each image and policy; no torch, so that a report is read without it.

    model, sampler, steps, guidance_scale        the setting
    policy, text_steps, keep, evaluations        what was done, and what it costs alone
    prompt, image, seed, sha256                  the image
    l1, psnr, ..., clipscore, judge, ...         its metrics
    features                                     what Frechet distances are taken of: d numbers

How the shard was made, its seconds included, is in the table's metadata: two tables of equal rows are equal.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shapefirst.checks import fitted, json_of
from shapefirst.errors import shortened
from shapefirst.sweep.grid import Shard

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "FEATURES",
    "NOT_MEASURED",
    "Made",
    "arrays_of",
    "check_rows",
    "check_values",
    "made",
    "parquet_of",
    "picture_name",
    "table_of",
]

FEATURES: Final = "features"
#: Columns that are no metric of an image.
NOT_MEASURED: Final = (
    "model",
    "sampler",
    "steps",
    "guidance_scale",
    "policy",
    "text_steps",
    "keep",
    "evaluations",
    "prompt",
    "image",
    "seed",
    "sha256",
    FEATURES,
)
_METADATA: Final = "shapefirst"
_DIGEST: Final = "sha256"
_TEXT, _WHOLE, _NUMBERS, _LISTS = "text", "whole numbers", "numbers", "lists of numbers, all of one length"
_KINDS: Final = {
    **dict.fromkeys(("model", "sampler", "policy", "keep", "prompt", "sha256"), _TEXT),
    **dict.fromkeys(("steps", "text_steps", "image", "seed"), _WHOLE),
    FEATURES: _LISTS,
}


@dataclass(frozen=True)
class Made:
    """How a shard was made.

    Attributes:
        evaluations: Of the denoiser, over its images.
        seconds: Of the parts.
        features: What they are.
        machine: In words.
    """

    evaluations: int
    seconds: Mapping[str, float]
    features: str
    machine: str


def table_of(columns: Mapping[str, Sequence[Any]], made: Mapping[str, Any]) -> pyarrow.Table:
    """The table of these columns; ``features`` as one (d,) array a row."""
    import pyarrow

    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        if name == FEATURES:
            flat = pyarrow.array(np.concatenate(values))
            arrays[name] = pyarrow.FixedSizeListArray.from_arrays(flat, len(values[0]))
        elif isinstance(values[0], float) or None in values:
            arrays[name] = pyarrow.array(values, pyarrow.float64())
        else:
            arrays[name] = pyarrow.array(values)
    table = pyarrow.table(arrays)
    return table.replace_schema_metadata({_METADATA: json.dumps(made), _DIGEST: _digest(table)})


def _digest(table: pyarrow.Table) -> str:
    """Of all its values: figures that somebody has changed by hand are not reported as measured."""
    found = hashlib.sha256()
    for name in sorted(table.column_names):
        column = table[name]
        values = _matrix(column.combine_chunks()).tobytes() if name == FEATURES else repr(column.to_pylist()).encode()
        found.update(name.encode() + b"\0" + values)
    return found.hexdigest()


def parquet_of(table: pyarrow.Table) -> bytes:
    """The table as a file. The features have no dictionary, which would only add to it: hardly two are alike."""
    import pyarrow
    import pyarrow.parquet

    others = [name for name in table.column_names if name != FEATURES]
    split = {f"{FEATURES}.list.element": "BYTE_STREAM_SPLIT"} if FEATURES in table.column_names else None
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=others,
        column_encoding=split,
        write_page_checksum=True,
    )
    return bytes(buffer.getvalue().to_pybytes())


def made(table: pyarrow.Table) -> Made:
    """How it was made.

    Raises:
        ValueError: It does not say.
    """
    about = (table.schema.metadata or {}).get(_METADATA.encode())
    if about is None:
        raise ValueError("its metadata are lost")
    return fitted(Made, json_of(about), " of its metadata")


def check_rows(table: pyarrow.Table, shard: Shard) -> None:
    """Raise ValueError, in a few words, unless the table may be that of the shard: its columns and their types, and a
    row for each image under each policy, in the shard's order."""
    names = table.column_names
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"the column {shortened(twice[0])!r} is there twice")
    if lacking := [name for name in NOT_MEASURED if name not in names]:
        raise ValueError(f"the column {lacking[0]!r} is missing")
    for name in names:
        column, kind = table[name], _KINDS.get(name, _NUMBERS)
        if not _is_of(column.type, kind) or (name in NOT_MEASURED and column.null_count):
            raise ValueError(f"the column {shortened(name)!r} should be {kind}, and is {shortened(str(column.type))}")
    n, setting = len(shard.prompts), shard.setting
    same = {name: [value] for name, value in asdict(setting).items()}
    images = list(range(shard.first, shard.first + n))
    policies = [words for words in shard.policies for _ in range(n)]
    told = {**same, "policy": policies, "image": images, "seed": shard.seeds}
    for name, values in told.items():
        if table[name].to_pylist() != values * (len(policies) // len(values)):
            raise ValueError(f"the column {name!r} is not as the sweep has it for this shard")
    for name, most in (("text_steps", setting.steps), ("evaluations", np.inf), (FEATURES, np.inf)):
        numbers = arrays_of(table.select([name]))[name]
        if not np.isfinite(numbers).all() or (name != FEATURES and (numbers.min() < 0 or numbers.max() > most)):
            raise ValueError(f"the column {name!r} holds numbers that cannot be")


def check_values(table: pyarrow.Table) -> None:
    """Raise ValueError if the table's values are not those that it was written with."""
    about = table.schema.metadata or {}
    if about and about.get(_DIGEST.encode(), b"").decode(errors="replace") != _digest(table):  # without it `made` falls
        raise ValueError("its rows are not those that were written")


def _is_of(kind: Any, wanted: str) -> bool:
    """Whether a type of Arrow is text, whole numbers, numbers, or lists of numbers of one length."""
    import pyarrow.types as types

    if wanted == _LISTS:
        return types.is_fixed_size_list(kind) and kind.list_size > 0 and types.is_floating(kind.value_type)
    tests = {_TEXT: [types.is_string], _WHOLE: [types.is_integer], _NUMBERS: [types.is_integer, types.is_floating]}
    return any(test(kind) for test in tests[wanted])


def arrays_of(table: pyarrow.Table) -> dict[str, np.ndarray]:
    """Column -> values, of n rows: (n,), and (n, d) for the features."""
    return {
        name: table[name].to_numpy() if name != FEATURES else _matrix(table[name].combine_chunks())
        for name in table.column_names
    }


def picture_name(image: int, policy: str) -> str:
    """Of the file that keeps a row's image."""
    return f"{image}-{policy.replace(':', '-')}.png"


def _matrix(lists: Any) -> np.ndarray:
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False)).reshape(len(lists), -1)
