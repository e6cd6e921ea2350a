"""The pictures that stock pipelines are given beside the prompt, each taken away from the U-Net in some of the steps.

    ControlNet         what a second network adds       not added: as `control_guidance_end` has it
    IP-Adapter         keys and values of the picture   of scale 0: as `set_ip_adapter_scale(0)` has it
    InstructPix2Pix    channels of the U-Net's input    0: what stood in training for a picture that was left out
                                                        (Brooks et al. 2023, arXiv 2211.09800, section 3.2.1)

The calls are the pipeline's own, with forward hooks on its U-Net that know their number and with it the step. One more
kind is one class here, and one entry in ``_CONDITIONS``; its folders load if `models.tasks.CONDITIONED` names it.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps

from shapefirst.findings.finding import DoesNotApply
from shapefirst.prompts import Prompt
from shapefirst.sampling.loop import as_images, generators
from shapefirst.studies.subject import Subject

__all__ = ["ImageCondition", "PictureNorms", "condition_of", "images_of"]

#: The positional and the named arguments of a call of the U-Net.
Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class PictureNorms:
    """Of the model's own output for the prompt, per prompt and step, (n, N), of the run with the picture in all steps.

    Attributes:
        without: Its norm without the picture.
        difference: |d_t|.
    """

    without: np.ndarray
    difference: np.ndarray


class ImageCondition(ABC):
    """What a pipeline makes of a picture.

    Attributes:
        pipe: The pipeline, without its progress bar. Its parts are as they were whenever no block of `shown_in` lasts.
        title: What stands for the picture.
        removed: What is done where it is taken away, as a sentence.
        classes: Names of pipelines that may have it.
        branches: Rows of a guided call for each image; the prompt's come last unless ``text_first``.
        text_first: The prompt's rows come first.
        together: Whether each image of a call may have a picture of its own.
    """

    title: ClassVar[str]
    removed: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    branches: ClassVar[int] = 2
    text_first: ClassVar[bool] = False
    together: ClassVar[bool] = True

    def __init__(self, pipe: Any) -> None:
        self.pipe = copy.copy(pipe)
        self.pipe.set_progress_bar_config(disable=True)  # of the copy

    @classmethod
    def on(cls, pipe: Any) -> bool:
        """Whether this pipeline has it."""
        return any(base.__name__ in cls.classes for base in type(pipe).__mro__)

    def given(self, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """The arguments of the pipeline's call for one picture an image."""
        return {"image": [self.fitted(picture) for picture in pictures]}

    @abstractmethod
    @contextmanager
    def without(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Arguments]:
        """What the U-Net is called with instead, for as long as the block lasts."""

    @contextmanager
    def shown_in(
        self,
        steps: Collection[int],
        of: int,
        *,
        on_call: Callable[[int], None] = lambda rows: None,
        see: Callable[[int, torch.Tensor, torch.Tensor], None] | None = None,
    ) -> Iterator[None]:
        """Within the block, one call of the pipeline has the picture in some steps only.

        Args:
            steps: Those.
            of: N; a solver that begins with calls of its own (PNDM) has more at the end, which count as the last step.
            on_call: Told the rows of each call of the U-Net.
            see: Told each step with the outputs of its first call, with and without the picture, (rows, C, H, W). The
                latter is evaluated for it.
        """
        unet, order = self.pipe.unet, int(getattr(self.pipe.scheduler, "order", 1))
        calls, away = 0, ExitStack()

        def before(unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
            on_call(len(args[0]))
            shown = min(calls // order, of - 1) in steps
            return None if shown else away.enter_context(self.without(args, kwargs))

        def after(unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            nonlocal calls
            away.close()
            if see is not None and calls % order == 0 and calls // order < of:
                with self.without(args, kwargs) as (other_args, other_kwargs):
                    on_call(len(args[0]))
                    see(calls // order, out[0], unet.forward(*other_args, **other_kwargs)[0])
            calls += 1

        with away, ExitStack() as hooks:
            for handle in (
                unet.register_forward_pre_hook(before, with_kwargs=True),
                unet.register_forward_hook(after, with_kwargs=True),
            ):
                hooks.callback(handle.remove)
            yield

    def of_prompt(self, out: torch.Tensor, images: int) -> torch.Tensor:
        """The prompt's rows of the U-Net's output: (rows, C, H, W) -> (images, C, H, W)."""
        return out[:images] if self.text_first else out[-images:]

    def fitted(self, picture: Image.Image) -> Image.Image:
        """The middle of a picture at the model's own size."""
        size = self.pipe.unet.config.sample_size
        rows, columns = (size, size) if isinstance(size, int) else size
        f = self.pipe.vae_scale_factor
        return ImageOps.fit(picture, (columns * f, rows * f))


class ControlNet(ImageCondition):
    """See the module."""

    title = "the ControlNet's picture"
    removed = (
        "What the ControlNet adds to the U-Net is left out, as with the pipeline's own `control_guidance_end`, which "
        "runs the ControlNet in all steps nevertheless."
    )
    classes = ("StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline")

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        if (nets := getattr(pipe.controlnet, "nets", None)) is not None:
            raise DoesNotApply(f"This pipeline has {len(nets)} ControlNets, and a picture is given to one: load one.")

    @contextmanager
    def without(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Arguments]:
        yield args, {**kwargs, "down_block_additional_residuals": None, "mid_block_additional_residual": None}


class IPAdapter(ImageCondition):
    """See the module."""

    title = "the IP-Adapter's picture"
    removed = "The IP-Adapter's scale is 0, as `set_ip_adapter_scale(0)` sets it."
    classes = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
    together = False  # the pipelines give every picture of a call to every image

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        if pipe.image_encoder is None:
            raise DoesNotApply("This IP-Adapter has no image encoder, so it takes no pictures but embeddings of faces.")

    @classmethod
    def on(cls, pipe: Any) -> bool:
        return super().on(pipe) and _adapters(pipe) > 0

    def given(self, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        (picture,) = pictures
        return {"ip_adapter_image": [picture] * _adapters(self.pipe)}

    @contextmanager
    def without(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Arguments]:
        processors = [
            one for one in self.pipe.unet.attn_processors.values() if isinstance(getattr(one, "scale", None), list)
        ]
        scales = [list(one.scale) for one in processors]
        self.pipe.set_ip_adapter_scale(0.0)
        try:
            yield args, kwargs
        finally:
            for one, scale in zip(processors, scales, strict=True):
                one.scale[:] = scale


class InstructPix2Pix(ImageCondition):
    """See the module."""

    title = "the picture to edit"
    removed = (
        "The channels of the U-Net's input that hold the picture are 0 in all three branches, which leaves eps(t, x, "
        "0) + w (eps(t, x, C) - eps(t, x, 0)), as for a model without a picture."
    )
    classes = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline")
    branches = 3
    text_first = True

    @contextmanager
    def without(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Arguments]:
        latents, *others = args
        latents = latents.clone()
        latents[:, self.pipe.vae.config.latent_channels :] = 0
        yield (latents, *others), kwargs


_CONDITIONS: Final[tuple[type[ImageCondition], ...]] = (ControlNet, IPAdapter, InstructPix2Pix)


def condition_of(pipe: Any) -> ImageCondition:
    """The image condition of a pipeline.

    Raises:
        DoesNotApply: It has none, or several.
    """
    adapted = _adapters(pipe) > 0
    found = [kind for kind in _CONDITIONS if kind.on(pipe)]
    if not found:
        what = "whose IP-Adapter is not known here" if adapted else "which is given no picture beside the prompt"
        raise DoesNotApply(
            f"This is a {type(pipe).__name__}, {what}: the study is about Stable Diffusion and SDXL with a ControlNet, "
            "an IP-Adapter, or as InstructPix2Pix."
        )
    if adapted and found != [IPAdapter]:
        raise DoesNotApply(
            f"This {type(pipe).__name__} has an IP-Adapter besides: take it off with pipe.unload_ip_adapter()."
        )
    return found[0](pipe)


def _adapters(pipe: Any) -> int:
    """The number of IP-Adapters on a pipeline's U-Net."""
    projection = getattr(getattr(pipe, "unet", None), "encoder_hid_proj", None)
    return len(getattr(projection, "image_projection_layers", ()))


def images_of(
    subject: Subject,
    condition: ImageCondition,
    prompts: Sequence[Prompt],
    pictures: Sequence[Image.Image],
    steps: Collection[int],
    norms: PictureNorms | None = None,
) -> list[Image.Image]:
    """An image for each prompt, with its picture in these steps; fills in the norms."""
    made: list[Image.Image] = []
    size = subject.batch_size if condition.together else 1
    for first in range(0, len(prompts), size):
        here = slice(first, min(first + size, len(prompts)))

        def see(step: int, out: torch.Tensor, without: torch.Tensor, here: slice = here) -> None:
            assert norms is not None
            with_it, without_it = (condition.of_prompt(y, here.stop - here.start).float() for y in (out, without))
            norms.without[here, step] = _norm(without_it)
            norms.difference[here, step] = _norm(with_it - without_it)

        with condition.shown_in(steps, subject.steps, on_call=subject.meter.add, see=None if norms is None else see):
            out = condition.pipe(
                prompt=[prompt.text for prompt in prompts[here]],
                num_inference_steps=subject.steps,
                guidance_scale=subject.guidance_scale,
                generator=generators(subject.seeds(len(prompts))[here]),
                output_type="np",
                **condition.given(pictures[here]),
            )
        made += as_images(condition.pipe, out.images)
    return made


def _norm(x: torch.Tensor) -> np.ndarray:
    """(B,) of (B, C, H, W)."""
    return x.flatten(1).norm(dim=1).cpu().numpy()
