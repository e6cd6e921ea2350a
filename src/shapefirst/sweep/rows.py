"""What a shard leaves as its table, one row for each image and policy; no torch, so that a report is read without it.

    model, sampler, steps, guidance_scale        the setting
    policy, text_steps, keep, evaluations        what was done, and what it costs alone
    prompt, image, seed, sha256                  the image
    l1, psnr, ..., clipscore, judge, ...         its metrics
    features                                     what Frechet distances are taken of: d numbers

How the shard was made, its seconds included, is in the table's metadata: two tables of equal rows are equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FEATURES", "NOT_MEASURED", "arrays_of", "made", "parquet_of", "picture_name", "table_of"]

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
    return pyarrow.table(arrays).replace_schema_metadata({_METADATA: json.dumps(made)})


def parquet_of(table: pyarrow.Table) -> bytes:
    """The table as a file. The features have no dictionary, which would only add to it: hardly two are alike."""
    import pyarrow
    import pyarrow.parquet

    others = [name for name in table.column_names if name != FEATURES]
    split = {f"{FEATURES}.list.element": "BYTE_STREAM_SPLIT"} if FEATURES in table.column_names else None
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer, compression="zstd", use_dictionary=others, column_encoding=split)
    return bytes(buffer.getvalue().to_pybytes())


def made(table: pyarrow.Table) -> dict[str, Any]:
    """How it was made: evaluations of the denoiser, seconds of the parts, what the features are, the machine."""
    return dict(json.loads(table.schema.metadata[_METADATA.encode()]))


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
