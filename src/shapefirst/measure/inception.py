"""Inception-v3 features for the FID as the field computes it: the network of 2015-12-05, with its own oddities.

FID (Heusel et al. 2017, arXiv 1706.08500) is the Frechet distance (`metrics.frechet`) of the 2048 numbers before the
last layer of one particular Inception-v3 (Szegedy et al. 2015, arXiv 1512.00567), which TensorFlow published on that
day. Another Inception-v3 gives other numbers: this one averages without its padding, takes a maximum where the last
block has a mean elsewhere, and is given images enlarged to 299 pixels as TensorFlow 1 did it. Weights are the ones
that torch-fidelity and torchmetrics use, "weights-inception-2015-12-05-6726825d.pth" or the same as safetensors; the
names below are its names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from shapefirst.errors import ModelError, first_line
from shapefirst.files import on_disk
from shapefirst.measure.rgb import to_rgb
from shapefirst.models.machine import find_device
from shapefirst.signatures import guarded

__all__ = ["Inception", "load_inception"]

SIDE: Final = 299  # pixels
WIDTH: Final = 2048
BATCH: Final = 16  # images at a time
LARGEST: Final = 10**9  # bytes, ten times those of the weights
FETCH: Final = "torch-fidelity"
FILE: Final = "weights-inception-2015-12-05-6726825d.pth"
DIGEST: Final = "6726825d"  # its sha256 begins so
URL: Final = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"

#: Channels, kernel, stride; "same" padding but for a stride of 2 and for the stem.
Layer: TypeAlias = "tuple[int, int | tuple[int, int]] | tuple[int, int | tuple[int, int], int]"


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, width: int, out: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if same and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(width, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Branches side by side: chains of convolutions, which may end in a fork of two, and one of a pooling."""

    def __init__(
        self,
        width: int,
        chains: dict[str, Sequence[Layer]],
        *,
        forks: Sequence[str] = (),
        pool: Callable[[Tensor], Tensor],
        after_pool: int | None = None,
    ) -> None:
        super().__init__()
        self.forks, self.pool, self.after_pool = frozenset(forks), pool, after_pool
        self.names: dict[str, list[str]] = {}
        for chain, layers in chains.items():
            into = width
            self.names[chain] = []
            for n, layer in enumerate(layers, start=1):
                name = chain if len(layers) == 1 else f"{chain}_{n}"
                for part in (f"{name}a", f"{name}b") if chain in forks and n == len(layers) else (name,):
                    kernel = layer[1] if not part.endswith("b") or isinstance(layer[1], int) else layer[1][::-1]
                    self.add_module(part, _Conv(into, layer[0], kernel, *layer[2:]))
                    self.names[chain].append(part)
                into = layer[0]
        if after_pool:
            self.branch_pool = _Conv(width, after_pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for chain, names in self.names.items():
            y, ends = x, names[-2:] if chain in self.forks else names[-1:]
            for name in names[: -len(ends)]:
                y = self.get_submodule(name)(y)
            found += [self.get_submodule(name)(y) for name in ends]
        pooled = self.pool(x)
        found.append(self.branch_pool(pooled) if self.after_pool else pooled)
        return torch.cat(found, 1)


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


def _block_a(width: int, after_pool: int) -> _Block:
    chains: dict[str, Sequence[Layer]] = {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
    }
    return _Block(width, chains, pool=_mean, after_pool=after_pool)


def _block_b(width: int) -> _Block:
    chains: dict[str, Sequence[Layer]] = {
        "branch3x3": [(384, 3, 2)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)],
    }
    return _Block(width, chains, pool=_halve)


def _block_c(width: int, c: int) -> _Block:
    chains: dict[str, Sequence[Layer]] = {
        "branch1x1": [(192, 1)],
        "branch7x7": [(c, 1), (c, (1, 7)), (192, (7, 1))],
        "branch7x7dbl": [(c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7))],
    }
    return _Block(width, chains, pool=_mean, after_pool=192)


def _block_d(width: int) -> _Block:
    chains: dict[str, Sequence[Layer]] = {
        "branch3x3": [(192, 1), (320, 3, 2)],
        "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)],
    }
    return _Block(width, chains, pool=_halve)


def _block_e(width: int, pool: Callable[[Tensor], Tensor]) -> _Block:
    chains: dict[str, Sequence[Layer]] = {
        "branch1x1": [(320, 1)],
        "branch3x3": [(384, 1), (384, (1, 3))],
        "branch3x3dbl": [(448, 1), (384, 3), (384, (1, 3))],
    }
    return _Block(width, chains, forks=("branch3x3", "branch3x3dbl"), pool=pool, after_pool=192)


class Inception(nn.Module):
    """The network up to its 2048 features."""

    title = "Inception features"

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _block_a(192, 32), _block_a(256, 64), _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b, self.Mixed_6c = _block_c(768, 128), _block_c(768, 160)
        self.Mixed_6d, self.Mixed_6e = _block_c(768, 160), _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b, self.Mixed_7c = _block_e(1280, _mean), _block_e(2048, _maximum)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) of 0 to 255 -> (B, 2048)."""
        x = (_enlarge(pixels.float()) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = _halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halve(x))))
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """(B, 2048) float32 of B images of any sizes."""
        place = next(self.parameters()).device
        found = [np.zeros((0, WIDTH), np.float32)]
        for start in range(0, len(images), BATCH):
            part = [torch.from_numpy(np.array(to_rgb(image))) for image in images[start : start + BATCH]]
            same = len({x.shape for x in part}) == 1
            for batch in [torch.stack(part)] if same else [x[None] for x in part]:
                found.append(self(batch.permute(0, 3, 1, 2).to(place)).cpu().numpy())
        return np.concatenate(found)


@guarded
def load_inception(file: str | Path, *, device: str | torch.device | None = None) -> Inception:
    """The network with its weights.

    Args:
        file: The .pth of the module, which is known by its digest, or the same weights as .safetensors;
            "torch-fidelity" downloads it to torch's cache if it is not there.
        device: By default CUDA, else Apple's MPS, else the CPU.

    Raises:
        ModelError: There is no such file, it is another one, or it is corrupt.
    """
    path = _fetched() if str(file) == FETCH else on_disk(str(file))
    if path is None or not path.is_file():
        raise ModelError(
            f"There are no Inception weights in {str(file)!r}: get them from {URL}, or say {FETCH!r} to have it done."
        )
    if path.stat().st_size > LARGEST:
        raise ModelError(f"{str(file)!r} is not {FILE}, which is at {URL}: it is larger.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if not digest.startswith(DIGEST):
                raise ModelError(f"{str(file)!r} is not {FILE}, which is at {URL}; or give them as safetensors.")
            weights = torch.load(path, map_location="cpu", weights_only=True)
        network = Inception()
        known = {name: value for name, value in weights.items() if not name.startswith("fc.")}
        network.load_state_dict(known)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"The Inception weights in {str(file)!r} cannot be read: {first_line(error)}.") from error
    return network.to(find_device(device))


def _fetched() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=DIGEST, progress=False)
        except Exception as error:
            raise ModelError(
                f"Cannot download {URL} ({first_line(error)}): get it by hand and give its path."
            ) from error
    return path


def _enlarge(x: Tensor) -> Tensor:
    """To 299 pixels a side as TensorFlow 1 does: pixel i of the result is at i H / 299 of the image."""
    return _along(_along(x, -1), -2)


def _along(x: Tensor, axis: int) -> Tensor:
    size = x.shape[axis]
    at = torch.arange(SIDE, dtype=torch.float32) * torch.tensor(size / SIDE, dtype=torch.float32)
    low = at.long()
    share = (at - low).to(x.device)
    if axis == -2:
        share = share[:, None]
    low, high = low.to(x.device), (low + 1).clamp(max=size - 1).to(x.device)
    a, b = x.index_select(axis, low), x.index_select(axis, high)
    return a + (b - a) * share
