"""What each family of diffusers pipelines can say of itself: how prompts are encoded and the denoiser is evaluated.

It imports only errors. A family more is one file with a subclass of ``family.Family``, and one entry in ``FAMILIES``
below: the names of the pipelines that it serves.
"""

from __future__ import annotations

from typing import Any, Final

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families.family import Embeddings, Family
from shapefirst.families.pixart import PixArt
from shapefirst.families.sd3 import StableDiffusion3
from shapefirst.families.sdxl import StableDiffusionXL
from shapefirst.families.stable_diffusion import StableDiffusion

__all__ = ["FAMILIES", "Embeddings", "Family", "check_family", "family_of"]

#: Name of a pipeline's class -> its family.
FAMILIES: Final[dict[str, Family]] = {
    "StableDiffusionPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
    "PixArtAlphaPipeline": PixArt(),
    "PixArtSigmaPipeline": PixArt(),
}


def family_of(pipe: Any) -> Family:
    """The family of a pipeline.

    Raises:
        UnsupportedPipelineError: It is of none.
    """
    return check_family(type(pipe))


def check_family(pipeline_class: type) -> Family:
    """The family of a class of pipelines. Raises UnsupportedPipelineError if it is of none."""
    for base in pipeline_class.__mro__:
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
    names = ", ".join(dict.fromkeys(family.name for family in FAMILIES.values()))
    raise UnsupportedPipelineError(
        f"A loop of our own (studies, sweeps, tune and denoise) cannot run {pipeline_class.__name__}: it runs {names}; "
        "guide() and generate take more."
    )
