"""Heat maps of words: where in the picture the denoiser looks at them (DAAM, Tang et al. 2022, arXiv 2210.04885).

with trace(pipe) as seen:
    image = pipe("a red mushroom").images[0]
seen.heat_map("mushroom").overlay(image).save("mushroom.png")
seen.heat_map("mushroom", steps=range(10), layers="up_blocks").values      # (h, w)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

import numpy as np
import torch
from PIL import Image

from shapefirst.attention.editing import texts_of
from shapefirst.attention.hook import AttentionHook, DenoiserCall, Recording, resized, within
from shapefirst.drawing.overlays import heat
from shapefirst.errors import ShapefirstError, said
from shapefirst.families.layout import denoiser_of
from shapefirst.guidance.hook import Reentrant
from shapefirst.policies.schedule import Branch
from shapefirst.prompts.reading import SPECIAL, Reading
from shapefirst.signatures import From, guarded

__all__ = ["HeatMap", "Trace", "trace"]

Number = Annotated[int, From(0)]
NOTHING: Final = "Nothing was traced: call the pipeline within the block first."


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Where a picture attends to words.

    Attributes:
        words: As asked for.
        values: (h, w), float32, the share of the attention that each pixel gives to the words' tokens together.
    """

    words: str
    values: np.ndarray

    def overlay(self, image: Image.Image) -> Image.Image:
        """The map over the picture in grey: from dark violet, its least value, over green to yellow, its greatest."""
        return heat(image, self.values)


class Trace(Recording):
    """What a `trace` block has seen of the latest generation. A new one begins it anew.

    Attributes:
        prompts: Of each image.
        steps: Those that evaluated the text branch, in order.
        layers: The names of the layers that were traced.
    """

    branches: tuple[Branch, ...] = ("text",)

    def __init__(self, pipe: Any, size: int, heads: bool, texts: Sequence[str] | None) -> None:
        self._pipe, self._size, self._by_head, self._texts = pipe, size, heads, texts
        self._readings: list[Reading] = []
        self._kept: list[int] = []  # token positions; those of padding that all prompts share are left out
        self._maps: dict[int, dict[str, torch.Tensor]] = {}  # step -> layer -> (B, heads or 1, tokens kept, h, w)

    def begin(self, call: DenoiserCall) -> None:
        self._readings, self._kept, self._maps = [], [], {}

    def add(
        self, branch: Branch, call: DenoiserCall, name: str, grid: tuple[int, int], attention: torch.Tensor
    ) -> None:
        if not self._readings:
            texts = texts_of(call, self._texts, len(attention), "trace")
            self._readings = [Reading(self._pipe, text, attention.shape[-1]) for text in texts]
            spoken = {place for one in self._readings for place in one.places("[SOS]", "[SEM]", "[EOS]")}
            self._kept = sorted(spoken)
        maps = attention[..., self._kept].transpose(2, 3).unflatten(3, grid)
        maps = maps if self._by_head else maps.mean(1, keepdim=True)
        smaller = within(call.latents, self._size)
        if smaller[0] < grid[0] or smaller[1] < grid[1]:
            maps = resized(maps.flatten(0, 1), smaller).unflatten(0, maps.shape[:2])
        self._maps.setdefault(call.step, {})[name] = maps.half().cpu()

    @property
    def prompts(self) -> list[str]:
        return [reading.prompt for reading in self._readings]

    @property
    def steps(self) -> list[int]:
        return sorted(self._maps)

    @property
    def layers(self) -> list[str]:
        return list(next(iter(self._maps.values()), {}))

    @guarded
    def words(self, image: Number = 0) -> list[str]:
        """The words of an image's prompt, of each of which there is a heat map.

        Raises:
            ShapefirstError: There is no such image.
        """
        return list(self._reading(image).words)

    @guarded
    def heat_map(
        self,
        words: str | Number,
        *,
        image: Number = 0,
        steps: Collection[Number] | None = None,
        layers: str | Collection[str] | None = None,
        heads: Collection[Number] | None = None,
    ) -> HeatMap:
        """Where an image attends to one or more words, the mean over steps, layers and heads.

        Args:
            words: "mushroom", "red mushroom", or a special token, "[SOS]", "[SEM]" (all words) or "[EOS]". Of what
                occurs more than once it is the first; a number is the place of any word in `words()`, from 0. What is
                several tokens, or stands in two text encoders, is added up.
            image: Which one of the batch, from 0.
            steps: These steps only.
            layers: These only, or all that have this in their names, such as "up_blocks" or "mid".
            heads: These only, if the block was told to keep heads apart.

        Raises:
            ShapefirstError: Nothing was traced, the words do not occur in the prompt, or there is no such image, step,
                layer or head.
        """
        reading = self._reading(image)
        if not isinstance(words, str):
            self._checked(words, range(len(reading.words)), "word")
        found = reading.places(words) if isinstance(words, str) else reading.word_places(words)
        places = [self._kept.index(place) for place in found]
        if not places:
            if words in SPECIAL:
                raise ShapefirstError(f"{reading.no_such(words)}.")
            raise ShapefirstError(f"{said(words)} is cut off from the prompt {said(reading.prompt)}.")
        if heads is not None and not self._by_head:
            raise ShapefirstError("The heads were not kept apart: say trace(pipe, heads=True).")
        chosen = self._chosen_layers(layers)
        few = self.steps if steps is None else [self._checked(step, self.steps, "step") for step in steps]
        maps: list[torch.Tensor] = []
        for step in few:
            for name in chosen:
                layer = self._maps[step][name][image]
                kept = (
                    range(len(layer))
                    if heads is None
                    else [self._checked(head, range(len(layer)), "head") for head in heads]
                )
                maps.append(layer[list(kept)][:, places].float().sum(1).mean(0))
        largest = max((one.shape for one in maps), key=lambda shape: shape[0] * shape[1], default=None)
        if largest is None:
            raise ShapefirstError("Say at least one of the steps, layers and heads, or leave them out for all.")
        enlarged = torch.nn.functional.interpolate
        same = [
            one if one.shape == largest else enlarged(one[None, None], largest, mode="bilinear")[0, 0] for one in maps
        ]
        return HeatMap(words if isinstance(words, str) else reading.words[words], torch.stack(same).mean(0).numpy())

    def _reading(self, image: int) -> Reading:
        if not self._readings:
            raise ShapefirstError(NOTHING)
        self._checked(image, range(len(self._readings)), "image")
        return self._readings[image]

    def _chosen_layers(self, layers: str | Collection[str] | None) -> list[str]:
        if layers is None:
            return self.layers
        if not isinstance(layers, str):
            return [self._checked(name, self.layers, "layer") for name in layers]
        found = [name for name in self.layers if layers in name]
        if not found:
            raise ShapefirstError(f"No layer has {said(layers)} in its name: there are {', '.join(self.layers)}.")
        return found

    @staticmethod
    def _checked(one: Any, all_of_them: Collection[Any], what: str) -> Any:
        if one not in all_of_them:
            there = list(all_of_them)
            few = ", ".join(map(str, there)) if len(there) <= 12 else f"{there[0]} to {there[-1]}"
            raise ShapefirstError(f"There is no {what} {said(one)} in this trace: there are {few}.")
        return one


@guarded
def trace(
    pipe: Any,
    *,
    size: Annotated[int, From(1, 4096)] = 64,
    heads: bool = False,
    prompts: str | Sequence[str] | None = None,
) -> AbstractContextManager[Trace]:
    """Within the block, generations of `pipe` leave heat maps of their prompts' words in the `Trace` that it yields.

    The images stay the same bit for bit. Memory: 2 B T h w bytes for each step and layer, of T tokens that are not
    padding; some MB a step with SDXL. Works with `guide`, in either order, with `edit`, and with `denoise`.

    Args:
        pipe: A stock pipeline of Stable Diffusion, SDXL, SD 3 or PixArt. SD 3 attends to picture and prompt at once, so
            that what its words get is their share of both.
        size: The longer side of the maps; smaller layers keep their own.
        heads: Keep the heads apart, which takes as many times the memory.
        prompts: The prompts, where the pipeline is called with embeddings.

    Raises:
        UnsupportedPipelineError: As for `record`.
        ShapefirstError: In the first step, the prompt is not known, or its tokenizer does not tell where tokens stand.
    """
    denoiser = denoiser_of(pipe)
    texts = None if prompts is None else (prompts,) if isinstance(prompts, str) else tuple(prompts)

    def begin() -> tuple[Trace, Callable[[], None]]:
        seen = Trace(pipe, size, heads, texts)
        return seen, partial(AttentionHook.enter(pipe, denoiser, seen).leave, seen)

    return Reentrant(begin, "A trace", "write `with trace(pipe) as seen:` above the pipeline's call.")
