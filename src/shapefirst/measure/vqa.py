"""Alignment by questions: the probability that a model answers "yes" when asked for each noun phrase of the prompt.

    score(image, prompt) = product over phrases of  p(yes | image, "{attribute} {noun}?")
    p(yes | ...)         = p_yes / (p_yes + p_no)

BLIP-VQA of T2I-CompBench (Huang et al. 2023, arXiv 2307.06350), whose published code also sets "yes" against "no": a
model that answers freely spreads its probability over many words ("green", "1", "bench"), and how much of it falls on
yes or no at all says more about the question than about the image. p_yes and p_no are

    BlipForQuestionAnswering    the probabilities of the first answer token (Salesforce/blip-vqa-base, as in the paper)
    ViltForQuestionAnswering    the sigmoids of the answers "yes" and "no" (dandelin/vilt-b32-finetuned-vqa)

Of a prompt without known phrases the whole text is the question: "{text}?". That is one rough question where a parser
of English would ask several (T2I-CompBench uses spaCy's noun chunks), and is not comparable with their figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from shapefirst.errors import ModelError, ShapefirstError
from shapefirst.measure.alignment import check_pairs
from shapefirst.measure.rgb import to_rgb
from shapefirst.models.scoring import load_model, load_part, rehearsed
from shapefirst.prompts import Prompt
from shapefirst.signatures import guarded

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["VqaScore", "load_vqa", "questions"]


@guarded
def questions(prompt: Prompt) -> list[str]:
    """What is asked about a prompt: "green bench?" of each phrase, or the whole text where no phrase is known."""
    if prompt.phrases:
        return [f"{attribute} {noun}?" for attribute, noun in prompt.phrases]
    return [f"{prompt.text.strip().rstrip('.?!')}?"]


class VqaScore:
    """The alignment by "yes", in [0, 1]; see the module.

    Args:
        model: A ``BlipForQuestionAnswering`` or ``ViltForQuestionAnswering``.
        processor: Its processor: images and texts -> inputs.
        name: For the title.
        batch_size: Questions at a time.

    Raises:
        ShapefirstError: The model is of another class, or does not know the answers "yes" and "no".
    """

    unit = "probability"

    def __init__(self, model: Any, processor: Any, name: str, batch_size: int = 16) -> None:
        self.title = f"VQA ({name})"
        self._model, self._processor, self._batch_size = model, processor, batch_size
        kind = model.config.model_type
        if kind not in ("blip", "vilt"):
            raise ShapefirstError(
                f"{name} is a model of the type {kind!r}; VQA takes BLIP (Salesforce/blip-vqa-base) or ViLT "
                "(dandelin/vilt-b32-finetuned-vqa)."
            )
        self._probabilities = self._of_blip if kind == "blip" else self._of_vilt
        self._answers = self._token_ids(name) if kind == "blip" else self._label_ids(name)
        text = getattr(model.config, "text_config", model.config)
        self._max_length = text.max_position_embeddings

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> np.ndarray:
        """(B,) float64. Raises ShapefirstError where the numbers of images and prompts differ."""
        check_pairs(images, prompts)
        asked = [(i, question) for i, prompt in enumerate(prompts) for question in questions(prompt)]
        scores = np.ones(len(images))
        for part in self._batches(asked):
            yes = self._ask([images[i] for i, _ in part], [question for _, question in part])
            for (i, _), probability in zip(part, yes, strict=True):
                scores[i] *= probability
        return scores

    def _batches(self, asked: Sequence[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
        """Questions of the same number of tokens, a batch at a time.

        Without padding, because BLIP's cross-attention in transformers (5.23) forgets the mask: it reads the padding.
        """
        by_length: dict[int, list[tuple[int, str]]] = {}
        for i, question in asked:
            by_length.setdefault(len(self._processor.tokenizer(question)["input_ids"]), []).append((i, question))
        for same in by_length.values():
            for start in range(0, len(same), self._batch_size):
                yield same[start : start + self._batch_size]

    @torch.no_grad()
    def _ask(self, images: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
        """(B,) p(yes) of each question about the image beside it."""
        inputs = self._processor(
            images=[to_rgb(image) for image in images],
            text=list(texts),
            truncation=True,
            max_length=self._max_length,
            return_tensors="pt",
        ).to(self._model.device)
        both = self._probabilities(inputs)[:, self._answers].double()
        return (both[:, 0] / both.sum(dim=1)).cpu().numpy()

    def _of_blip(self, inputs: Any) -> Tensor:
        """(B, vocabulary): of the first token of the answer."""
        # Not the model's forward, which wants an answer and keeps its logits to itself.
        model = self._model
        seen = model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state
        understood = model.text_encoder(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        start = torch.full((len(seen), 1), model.decoder_start_token_id, device=seen.device)
        answer = model.text_decoder(
            input_ids=start, encoder_hidden_states=understood, encoder_attention_mask=inputs["attention_mask"]
        )
        return answer.logits[:, -1].softmax(dim=-1)

    def _of_vilt(self, inputs: Any) -> Tensor:
        """(B, answers): each answer is a yes-or-no question of its own to this model."""
        return self._model(**inputs).logits.sigmoid()

    def _token_ids(self, name: str) -> list[int]:
        tokens = [self._processor.tokenizer(a, add_special_tokens=False)["input_ids"][0] for a in ("yes", "no")]
        if tokens[0] == tokens[1]:
            raise ShapefirstError(f"The tokenizer of {name} begins yes and no with the same token: use another model.")
        return tokens

    def _label_ids(self, name: str) -> list[int]:
        labels = {str(label).lower(): i for label, i in self._model.config.label2id.items()}
        if not {"yes", "no"} <= labels.keys():
            raise ShapefirstError(f"{name} has no answers yes and no: use a model that was trained on VQA.")
        return [labels["yes"], labels["no"]]


@guarded
def load_vqa(id_or_folder: str | Path, *, device: str | torch.device | None = None) -> VqaScore:
    """The score of a hub id or a transformers folder, in float32.

    Raises:
        ModelError: It is not to be had, of another kind, incomplete, pickled or corrupt.
    """
    model, folder = load_model(id_or_folder, "AutoModelForVisualQuestionAnswering", device=device)
    processor = load_part(folder, "AutoProcessor", "processor")
    if not hasattr(processor, "tokenizer"):
        raise ModelError(f"{folder} has no tokenizer beside its image processor: give the folder or id of a whole one.")
    return rehearsed(VqaScore(model, processor, str(id_or_folder)), folder)
