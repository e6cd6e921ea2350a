"""The judge of the embedded model's world: a small classifier that says which objects an image shows.

It was trained on renders alone, without any text (see ``training.judge``), and answers for two places: the first object
in reading order (left, upper or only) and the second (right, lower, or none).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shapefirst.measure.rgb import to_rgb
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS

if TYPE_CHECKING:
    from shapefirst.world.renders import Renders

WIDTHS = (32, 64, 128, 160)
#: Classes of the four questions: noun and attribute of the first object, of the second or none.
SIZES = (len(NOUNS), len(ATTRIBUTES), len(NOUNS) + 1, len(ATTRIBUTES) + 1)
BATCH = 128


@dataclass(frozen=True)
class Sighting:
    """What the judge sees: (attribute, noun) of one object, or of two in reading order; and its features (d,)."""

    objects: tuple[tuple[str, str], ...]
    features: Tensor


class Judge(nn.Module):
    """Four strided stages of convolutions, then one linear head a question. Input (b, 3, 64, 64) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.SiLU()]
            before = width
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 16, 256), nn.SiLU())
        self.head = nn.Linear(256, sum(SIZES))

    def forward(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Logits of (noun, attribute, second noun or none, second attribute or none), and features (b, 256)."""
        features = self.body(images)
        return self.head(features).split(SIZES, dim=-1), features

    @torch.no_grad()
    def see(self, images: Sequence[Image.Image]) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """What ``forward`` returns, on the CPU, for ``BATCH`` images after the other; they are brought to 64 x 64."""
        for start in range(0, len(images), BATCH):
            part = [to_rgb(im).resize((64, 64), Image.Resampling.BOX) for im in images[start : start + BATCH]]
            x = torch.from_numpy(np.stack([np.asarray(im) for im in part])).permute(0, 3, 1, 2).float() / 127.5 - 1
            logits, features = self(x.to(self.head.weight.device))
            yield tuple(q.cpu() for q in logits), features.cpu()

    def look(self, images: Sequence[Image.Image]) -> list[Sighting]:
        """The verdict on each image."""
        out: list[Sighting] = []
        for logits, features in self.see(images):
            for n1, a1, n2, a2, f in zip(*(q.argmax(-1).tolist() for q in logits), features, strict=True):
                objects = [(ATTRIBUTES[a1], NOUNS[n1])]
                if n2 < len(NOUNS):
                    objects.append((ATTRIBUTES[a2] if a2 < len(ATTRIBUTES) else "", NOUNS[n2]))
                out.append(Sighting(tuple(objects), f))
        return out

    @torch.no_grad()
    def features_of(self, renders: Renders) -> Tensor:
        """(n, 256) features of every render."""
        device = self.head.weight.device
        return torch.cat([self(renders.batch(i, device))[1].cpu() for i in torch.arange(len(renders)).split(256)])

    def save(self, folder: Path) -> None:
        """Write weights (float16) and the classes they stand for."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"nouns": NOUNS, "attributes": ATTRIBUTES}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Judge:
        """Read what ``save`` wrote; refuses weights made for another vocabulary."""
        config = json.loads((folder / "config.json").read_text())
        if config != {"nouns": list(NOUNS), "attributes": list(ATTRIBUTES)}:
            raise ValueError(f"the judge in {folder} was trained for another vocabulary: train it again")
        judge = cls()
        judge.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
        return judge.eval()
