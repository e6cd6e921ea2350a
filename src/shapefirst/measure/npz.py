"""Arrays of an .npz, whole or refused: NumPy itself reads past some damage, such as a header that says fewer bytes.

An .npz is a zip of .npy files, each with a checksum: it is compared before the file is looked at. Pickles are not read.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from shapefirst.errors import ShapefirstError, first_line

__all__ = ["read_npz"]


def read_npz(path: Path | str, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays of these names.

    Raises:
        ShapefirstError: The file is not there, no .npz or damaged, or has no such arrays.
    """
    try:
        with ZipFile(path) as archive:
            if missing := [name for name in names if f"{name}.npy" not in archive.namelist()]:
                raise ValueError(f"it has no {' and no '.join(missing)}")
            return [_array(archive.read(f"{name}.npy")) for name in names]
    except Exception as error:  # of the disk, the zip, its compression, or the header of an array
        raise ShapefirstError(f"Cannot read {str(path)!r} as .npz: {first_line(error)}.") from error


def _array(content: bytes) -> np.ndarray:
    stream = io.BytesIO(content)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    if stream.read(1):
        raise ValueError("it holds more than its header says")
    return array
