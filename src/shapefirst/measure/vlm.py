"""Alignment by a vision-language model that first describes the image and then scores it, from 1 to 5.

    image + "describe it"  ->  a description  ->  "how well does it fit the prompt?"  ->  "Score: 4"  ->  4.0

The chain of thought of T2I-CompBench (Huang et al. 2023, arXiv 2307.06350), which the paper uses with MiniGPT-4. That
model has no class in transformers; the nearest that has one, and a chat template, is LLaVA-1.5 (like MiniGPT-4 a Vicuna
that is shown an image encoder's output): llava-hf/llava-1.5-7b-hf. Any other image-text-to-text model with a chat
template serves as well; those whose processor also takes videos (Qwen2-VL, SmolVLM) want torchvision installed. Scores
of two models cannot be compared, hence the title names the model. T2I-CompBench grades each noun phrase from 0 to 100;
one grade from 1 to 5 for the whole prompt is this project's choice. Answers are decoded greedily, so that a run can be
repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from shapefirst.errors import ModelError
from shapefirst.measure.alignment import check_pairs
from shapefirst.measure.answers import parse_score
from shapefirst.measure.rgb import to_rgb
from shapefirst.models.machine import find_device
from shapefirst.models.scoring import load_model, load_part, rehearsed
from shapefirst.prompts import Prompt
from shapefirst.signatures import guarded

__all__ = ["Reply", "VlmScore", "load_vlm"]

DESCRIBE: Final = (
    "Describe this image in at most 50 words: which objects it shows, and the colour and texture of each of them."
)
SCORE: Final = (
    "According to the image and to your description, how well does the image fit the prompt “{text}”?\n"
    "5: every object of the prompt is there, each with the attribute that the prompt gives it.\n"
    "4: every object is there, with small errors in an attribute.\n"
    "3: some of the objects or attributes are right.\n"
    "2: an object of the prompt is there, with wrong attributes.\n"
    "1: nothing of the prompt is there.\n"
    "Answer with the line “Score: N”, where N is a number from 1 to 5."
)


@dataclass(frozen=True)
class Reply:
    """What the model said of one image: its description, its answer, and the score in it (nan if there is none)."""

    description: str
    answer: str
    score: float


class VlmScore:
    """The alignment by description and score, from 1 to 5; see the module.

    Args:
        model: An image-text-to-text model of transformers.
        processor: Its processor, with a chat template.
        name: For the title.
        batch_size: Images at a time.
        max_new_tokens: The longest description; the answer has a quarter of it.

    Raises:
        ModelError: The processor has no chat template.
    """

    unit = "score 1 to 5"

    def __init__(
        self, model: Any, processor: Any, name: str, *, batch_size: int = 8, max_new_tokens: int = 128
    ) -> None:
        if not getattr(processor, "chat_template", None):
            raise ModelError(f"{name} has no chat template, so it cannot be asked: use an instruction-tuned model.")
        self.title = f"Chain-of-thought score ({name})"
        self._model, self._processor = model, processor
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens
        tokenizer = processor.tokenizer
        tokenizer.padding_side = "left"  # so that every answer begins where its prompt ends
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> np.ndarray:
        """(B,) float64 in [1, 5], nan where the answer holds no score.

        Raises:
            ShapefirstError: The numbers of images and prompts differ.
        """
        return np.array([reply.score for reply in self.ask(images, prompts)], dtype=np.float64)

    def ask(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[Reply]:
        """What the model says of each image with the prompt beside it; errors as in :meth:`score`."""
        check_pairs(images, prompts)
        replies: list[Reply] = []
        for start in range(0, len(images), self._batch_size):
            part = [to_rgb(image) for image in images[start : start + self._batch_size]]
            talks = [[_said("user", DESCRIBE, image=True)] for _ in part]
            descriptions = self._answers(part, talks, self._max_new_tokens)
            for talk, description, prompt in zip(talks, descriptions, prompts[start:], strict=False):
                talk += [_said("assistant", description), _said("user", SCORE.format(text=prompt.text))]
            answers = self._answers(part, talks, max(8, self._max_new_tokens // 4))
            replies += [Reply(d, a, parse_score(a)) for d, a in zip(descriptions, answers, strict=True)]
        return replies

    @torch.no_grad()
    def _answers(self, images: Sequence[Image.Image], talks: Sequence[list[dict[str, Any]]], longest: int) -> list[str]:
        """What comes next in each talk about the image beside it."""
        processor = self._processor
        texts = [processor.apply_chat_template(talk, add_generation_prompt=True) for talk in talks]
        begin = processor.tokenizer.bos_token
        # Some templates write the start token themselves; a second one would be read as part of the text.
        options = {"add_special_tokens": False} if begin and texts[0].startswith(begin) else {}
        # One list of images for each text: processors that allow several images a text take a flat list for one text's.
        inputs = processor(
            images=[[image] for image in images], text=texts, padding=True, return_tensors="pt", **options
        ).to(self._model.device, self._model.dtype)
        made = self._model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        if not getattr(self._model.config, "is_encoder_decoder", False):
            made = made[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in processor.tokenizer.batch_decode(made, skip_special_tokens=True)]


def _said(role: str, text: str, *, image: bool = False) -> dict[str, Any]:
    content: list[dict[str, str]] = [{"type": "image"}] if image else []
    return {"role": role, "content": [*content, {"type": "text", "text": text}]}


@guarded
def load_vlm(id_or_folder: str | Path, *, device: str | torch.device | None = None) -> VlmScore:
    """The score of a hub id or a transformers folder: in bfloat16 on CUDA, in float32 elsewhere.

    Raises:
        ModelError: It is not to be had, of another kind, without a chat template, incomplete, pickled or corrupt.
    """
    dtype = torch.bfloat16 if find_device(device).type == "cuda" else torch.float32
    model, folder = load_model(id_or_folder, "AutoModelForImageTextToText", device=device, dtype=dtype)
    processor = load_part(folder, "AutoProcessor", "processor")
    rehearsed(VlmScore(model, processor, str(id_or_folder), max_new_tokens=1), folder)
    return VlmScore(model, processor, str(id_or_folder))
