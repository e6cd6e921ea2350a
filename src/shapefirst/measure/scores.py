"""Which scores a model is studied by: pocket by its own CLIP and its judge, any other model by CLIP.

    alignments_for("pocket")                                 clipscore, judge, judge-noun, judge-attribute
    alignments_for("sd15", vqa="Salesforce/blip-vqa-base")   clipscore, vqa

The first is the one that verdicts are made by: CLIPScore, on every model. A trial of the studies went by the judge on
pocket, a product of two probabilities, which is 0 for the noun of one prompt with the attribute of another, whichever
of them it is held against; so F4 now asks for noun and attribute apart as well. The paper (arXiv 2405.15330) uses
CLIPScore, BLIP-VQA ("Salesforce/blip-vqa-base") and MiniGPT-4 (nearest in transformers: "llava-hf/llava-1.5-7b-hf", see
``metrics.vlm``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from shapefirst.errors import ModelError, ShapefirstError
from shapefirst.measure.alignment import Alignment, check_pairs
from shapefirst.measure.clip import Clip, ClipScore, ClipSimilarity, load_clip
from shapefirst.measure.judge import Judge
from shapefirst.measure.judging import JudgeScore, load_judge
from shapefirst.measure.vlm import load_vlm
from shapefirst.measure.vqa import load_vqa
from shapefirst.models import is_pocket, locate
from shapefirst.models.catalogue import scorers_folder
from shapefirst.models.scoring import locate_scorer
from shapefirst.signatures import guarded

if TYPE_CHECKING:
    from pathlib import Path

    import torch

__all__ = [
    "CLIP",
    "JUDGE_ATTRIBUTE",
    "JUDGE_NOUN",
    "NO_CLIP",
    "SCORES",
    "Unscored",
    "alignments_for",
    "check_scores",
    "clip_at_hand",
    "features_for",
    "similarity_for",
]

#: Of models other than pocket, unless another is named. It is downloaded where it is named and nowhere else.
CLIP: Final = "openai/clip-vit-base-patch16"
#: In the place of a CLIP's name: no image is scored by one.
NO_CLIP: Final = "none"
#: Name -> (id or folder of its model, device=) -> score. One more entry is one more score in the commands.
SCORES: Final[dict[str, Callable[..., Alignment]]] = {
    "vqa": load_vqa,  # visual question answering: BLIP or ViLT
    "vlm": load_vlm,  # an image-text-to-text model with a chat template
}
#: Names of scores of pocket's images by one half of a phrase.
JUDGE_NOUN: Final = "judge-noun"
JUDGE_ATTRIBUTE: Final = "judge-attribute"


class Unscored:
    """In the place of a score whose model is not here: not a number, for each image."""

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit = f"{title} (no CLIP here)", unit

    def score(self, images: Sequence[Image.Image], others: Sequence[object]) -> np.ndarray:
        check_pairs(images, others)
        return np.full(len(images), np.nan)


def clip_at_hand(model_name: str, clip: str | None) -> bool:
    """Whether images of a model can be scored by a CLIP without a download that nobody has asked for."""
    return clip != NO_CLIP if clip is not None else is_pocket(model_name) or locate_scorer(CLIP) is not None


@guarded
def alignments_for(
    model_name: str,
    *,
    clip: str | None = None,
    device: str | torch.device | None = None,
    judge: bool = True,
    **models: str | None,
) -> dict[str, Alignment]:
    """Name -> score, in the order in which reports show them.

    Args:
        model_name: The model under study: anything that ``shapefirst.models.load`` takes.
        clip: Id or folder of a CLIP, or ``NO_CLIP``; by default pocket's own on pocket and ``CLIP`` elsewhere.
        device: Of the scoring models; by default CUDA, else Apple's MPS, else the CPU.
        judge: Whether pocket's images are judged, too: it knows pocket's words only (see ``can_judge``).
        models: Names of ``SCORES`` -> id or folder of the model of each score that is wanted.

    Raises:
        ModelError: One of the models is not to be had.
        ShapefirstError: There is no score of such a name.
    """
    without = clip == NO_CLIP
    by_clip = Unscored("CLIPScore", ClipScore.unit) if without else ClipScore(_clip_for(model_name, clip, device))
    scores: dict[str, Alignment] = {"clipscore": by_clip}
    if is_pocket(model_name) and judge:
        scores["judge"] = JudgeScore(_judge(model_name))
        scores[JUDGE_NOUN] = JudgeScore(_judge(model_name), "noun")
        scores[JUDGE_ATTRIBUTE] = JudgeScore(_judge(model_name), "attribute")
    wanted = {name: model for name, model in models.items() if model is not None}
    check_scores(wanted)
    return scores | {name: load(wanted[name], device=device) for name, load in SCORES.items() if name in wanted}


@guarded
def check_scores(names: Iterable[str]) -> None:
    """Raise ShapefirstError for a name that is none of ``SCORES``."""
    if unknown := next((name for name in names if name not in SCORES), None):
        raise ShapefirstError(f"There is no score {unknown!r}: say one of {', '.join(SCORES)}, and its model.")


@guarded
def similarity_for(
    model_name: str, clip: str | None = None, device: str | torch.device | None = None
) -> ClipSimilarity | Unscored:
    """The image-CLIP similarity of images and their references; arguments and errors as in :func:`alignments_for`."""
    if clip == NO_CLIP:
        return Unscored("image-CLIP similarity", ClipSimilarity.unit)
    return ClipSimilarity(_clip_for(model_name, clip, device))


@guarded
def features_for(
    model_name: str, clip: str | None = None, device: str | torch.device | None = None
) -> tuple[str, Callable[[Sequence[Image.Image]], np.ndarray]]:
    """What the Frechet distance is taken of: (its name for tables, images -> (n, d) float32 features).

    On pocket the judge's last hidden layer (d = 256) unless a CLIP is named, elsewhere CLIP's projected image features.
    Arguments and errors as in :func:`alignments_for`.
    """
    if is_pocket(model_name) and clip in (None, NO_CLIP):
        judge = _judge(model_name)
        return "judge's features", lambda images: _hidden(judge, images)
    model = _clip_for(model_name, clip, device)
    return f"CLIP features ({model.name})", lambda images: model.of_images(images).numpy()


def _hidden(judge: Judge, images: Sequence[Image.Image]) -> np.ndarray:
    rows = [verdict.features.numpy() for verdict in judge.look(images)]
    return np.stack(rows) if rows else np.zeros((0, judge.head.in_features), np.float32)


def _clip_for(model_name: str, clip: str | None, device: str | torch.device | None) -> Clip:
    if clip is None and is_pocket(model_name):
        return _loaded(str(_folder(model_name) / "clip"), device, "pocket's own")
    return _loaded(clip or CLIP, device, None)


@lru_cache(maxsize=2)
def _loaded(name: str, device: str | torch.device | None, called: str | None) -> Clip:
    """One model for all the scores that need it."""
    return load_clip(name, device=device, called=called)


@lru_cache(maxsize=1)
def _judge(model_name: str) -> Judge:
    return load_judge(_folder(model_name) / "judge")


def _folder(model_name: str) -> Path:
    """Where its judge and its CLIP lie."""
    folder = locate(model_name)
    if folder is None:
        raise ModelError(f"The weights of {model_name} are missing: reinstall shapefirst.")
    return scorers_folder(folder)
