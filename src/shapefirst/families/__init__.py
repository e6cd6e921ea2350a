"""What each family of diffusers pipelines can say of itself: how it is guided, and how prompts are encoded and the
denoiser is evaluated where a loop of our own can run it.

It imports only errors. A family more is one file with a subclass of ``family.Family``, and one entry in ``FAMILIES``
below: the names of the pipelines that it serves. A pipeline that only `guide` is to run needs no more than its name in
``GUIDED`` and a row in ``tests/test_pipelines.py``.
"""

from __future__ import annotations

from typing import Any, Final

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families.embeddings import Embeddings
from shapefirst.families.family import Family
from shapefirst.families.pixart import PixArt
from shapefirst.families.sd3 import StableDiffusion3
from shapefirst.families.sdxl import StableDiffusionXL
from shapefirst.families.stable_diffusion import StableDiffusion

__all__ = ["FAMILIES", "Embeddings", "Family", "family_of", "family_of_class"]

#: Pipelines whose guidance is one batch, as runs against a reference have shown, and which nothing else is known of.
GUIDED: Final = """
    AnimateDiffPipeline AnyFlowPipeline AudioLDM2Pipeline BriaPipeline CogVideoXFunControlPipeline CogVideoXPipeline
    CogVideoXVideoToVideoPipeline CogView3PlusPipeline EasyAnimatePipeline HunyuanDiTControlNetPipeline
    HunyuanDiTPipeline IFPipeline Kandinsky3Pipeline KandinskyPipeline KolorsPipeline LTXPipeline LattePipeline
    MochiPipeline SanaPipeline SanaVideoPipeline StableAudioPipeline StableDiffusion3Img2ImgPipeline
    StableDiffusionAdapterPipeline StableDiffusionControlNetImg2ImgPipeline StableDiffusionControlNetInpaintPipeline
    StableDiffusionControlNetPipeline StableDiffusionDepth2ImgPipeline StableDiffusionImg2ImgPipeline
    StableDiffusionInpaintPipeline StableDiffusionUpscalePipeline StableDiffusionXLAdapterPipeline
    StableDiffusionXLControlNetImg2ImgPipeline StableDiffusionXLControlNetInpaintPipeline
    StableDiffusionXLControlNetPipeline StableDiffusionXLImg2ImgPipeline StableDiffusionXLInpaintPipeline
""".split()  # noqa: SIM905

#: Name of a pipeline's class -> its family.
FAMILIES: Final[dict[str, Family]] = {
    **dict.fromkeys(GUIDED, Family()),
    "StableDiffusionPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
    "PixArtAlphaPipeline": PixArt(),
    "PixArtSigmaPipeline": PixArt(),
}


def family_of(pipe: Any) -> Family:
    """The family of a pipeline. Raises UnsupportedPipelineError if it is of none."""
    return family_of_class(type(pipe))


def family_of_class(pipeline_class: type) -> Family:
    """The family of a class of pipelines. Raises UnsupportedPipelineError if it is of none."""
    for base in pipeline_class.__mro__:
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
    raise UnsupportedPipelineError(
        f"{pipeline_class.__name__} is not known to run the null and the text branch of guidance in one batch, as do "
        f"StableDiffusionPipeline, PixArtAlphaPipeline and {len(FAMILIES) - 2} others (shapefirst.families.FAMILIES)."
    )
