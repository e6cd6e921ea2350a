"""CLIPScore of an image with a prompt, and CLIP similarity of two images.

    CLIPScore(image, text) = 100 cos(f(image), g(text))          Hessel et al. 2021 (arXiv 2104.08718)
    similarity(x, y)       = cos(f(x), f(y))                     in [-1, 1], 1 = the same features

Hessel et al. scale by 2.5 and clip at 0; here the cosine is scaled by 100, as is usual now, and not clipped: studies
compare scores of the same image with two prompts, and clipping would hide how far below 0 one of them is. With OpenAI's
models, values lie about 15 to 40, so that hardly anything would be clipped anyway.

Any ``CLIPModel`` will do, and titles name it: scores of two CLIPs cannot be compared. openai/clip-vit-base-patch16 is
the studies' default; openai/clip-vit-large-patch14 holds the very text encoder that Stable Diffusion v1.5 draws by,
which may make it a partial judge of that model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from shapefirst.measure.alignment import check_pairs
from shapefirst.measure.rgb import to_rgb
from shapefirst.models.scoring import load_model, load_part, rehearsed
from shapefirst.prompts import Prompt
from shapefirst.signatures import guarded

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Clip", "ClipScore", "ClipSimilarity", "load_clip"]


@dataclass(frozen=True)
class Clip:
    """A transformers ``CLIPModel`` with what prepares its inputs; shared by all scores that need it.

    Attributes:
        name: For titles.
        model: The ``CLIPModel``.
        tokenizer: Its tokenizer.
        processor: PIL images -> {"pixel_values"}, such as a ``CLIPImageProcessor``.
        batch_size: Images or texts at a time.
    """

    name: str
    model: Any
    tokenizer: Any
    processor: Any
    batch_size: int = 64

    @torch.no_grad()
    def of_images(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, d) float32 on the CPU: projected image features, not normalised."""
        parts = [torch.zeros(0, self.model.config.projection_dim)]
        for start in range(0, len(images), self.batch_size):
            part = [to_rgb(image) for image in images[start : start + self.batch_size]]
            pixels = self.processor(images=part, return_tensors="pt")["pixel_values"]
            # Not get_image_features, which returns another type from one version of transformers to the next.
            pooled = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
            parts.append(self.model.visual_projection(pooled).float().cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """(B, d) float32 on the CPU: projected text features, not normalised. Longer texts are cut off at the end."""
        parts = [torch.zeros(0, self.model.config.projection_dim)]
        for start in range(0, len(texts), self.batch_size):
            tokens = self.tokenizer(
                list(texts[start : start + self.batch_size]),
                padding=True,
                truncation=True,
                max_length=self.model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(self.model.device)
            pooled = self.model.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            parts.append(self.model.text_projection(pooled).float().cpu())
        return torch.cat(parts)


class ClipScore:
    """The alignment 100 cos(image, text), in [-100, 100]; see the module."""

    unit = "cosine x 100"

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.title = f"CLIPScore ({clip.name})"

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> np.ndarray:
        """(B,) float64. Raises ShapefirstError where the numbers of images and prompts differ."""
        check_pairs(images, prompts)
        texts = self.clip.of_texts([prompt.text for prompt in prompts])
        return 100 * F.cosine_similarity(self.clip.of_images(images).double(), texts.double()).numpy()


class ClipSimilarity:
    """The cosine between the features of an image and of its reference, in [-1, 1]: the paper's image-CLIPScore."""

    unit = "cosine"

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.title = f"CLIP similarity ({clip.name})"

    def score(self, images: Sequence[Image.Image], references: Sequence[Image.Image]) -> np.ndarray:
        """(B,) float64. Raises ShapefirstError where the numbers of images and references differ."""
        check_pairs(images, references, "references")
        x, y = self.clip.of_images(images), self.clip.of_images(references)
        return F.cosine_similarity(x.double(), y.double()).numpy()


@guarded
def load_clip(id_or_folder: str | Path, *, device: str | torch.device | None = None, called: str | None = None) -> Clip:
    """A CLIP in float32.

    Args:
        id_or_folder: A hub id or a transformers folder of a ``CLIPModel``, with safetensors.
        device: By default CUDA, else Apple's MPS, else the CPU.
        called: Its name in titles; by default ``id_or_folder``.

    Raises:
        ModelError: It is not to be had, no CLIP, incomplete, pickled or corrupt.
    """
    model, folder = load_model(id_or_folder, "CLIPModel", device=device)
    tokenizer = load_part(folder, "AutoTokenizer", "tokenizer")
    if any((folder / file).is_file() for file in ("preprocessor_config.json", "processor_config.json")):
        # AutoImageProcessor would do, but in transformers 5.4 to 5.17 it is not to be had without torchvision.
        processor = load_part(folder, "CLIPImageProcessor", "image processor")
    else:
        processor = _usual_processor(model.config.vision_config.image_size)
    clip = Clip(called or str(id_or_folder), model, tokenizer, processor)
    rehearsed(ClipScore(clip), folder)
    return clip


def _usual_processor(size: int) -> Any:
    """CLIP's own preparation at the model's size, for folders that do not say theirs."""
    from shapefirst.models.quiet import quietly

    with quietly():
        from transformers import CLIPImageProcessor

        return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
