"""What each family of diffusers pipelines can say of itself: how it is guided, and how prompts are encoded and the
denoiser is evaluated where a loop of our own can run it.

It imports only errors. A family more is one file with a subclass of ``family.Family``, and one entry in ``FAMILIES``
below: the names of the pipelines that it serves. A pipeline that only `guide` is to run needs no more than its name in
``GUIDED`` and a row in ``tests/test_pipelines.py``.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Final

from shapefirst.families.embeddings import Embeddings
from shapefirst.families.family import Family
from shapefirst.families.pixart import PixArt
from shapefirst.families.sd3 import StableDiffusion3
from shapefirst.families.sdxl import StableDiffusionXL
from shapefirst.families.stable_diffusion import StableDiffusion

__all__ = ["FAMILIES", "UNKNOWN", "Embeddings", "Family", "family_of", "family_of_class"]

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


#: Pipelines that nothing is known of.
UNKNOWN: Final = Family(way="whole calls")

#: Names in the code of a `__call__` that betray another layout than that of the class that it was derived from.
_OTHER_LAYOUTS: Final = frozenset(
    """
    image_guidance_scale pag_scale sag_scale true_cfg_scale guidance_scale_2 editing_prompt prior_guidance_scale
    view_batch_size
    """.split()  # noqa: SIM905
)


def family_of(pipe: Any) -> Family:
    """The family of a pipeline; `UNKNOWN` if it is of none."""
    return family_of_class(type(pipe))  # type: ignore[arg-type]


@cache
def family_of_class(pipeline_class: type) -> Family:
    """The family of a class of pipelines; `UNKNOWN` if it is of none.

    A class of one's own that derives from one in `FAMILIES` is taken for it, unless what its own `__call__` uses
    betrays another layout.
    """
    for base in pipeline_class.__mro__:
        if base.__name__ in FAMILIES:
            return FAMILIES[base.__name__]
        code = getattr(inspect.unwrap(vars(base).get("__call__", base)), "__code__", None)
        if code is not None and not _OTHER_LAYOUTS.isdisjoint((*code.co_names, *code.co_varnames)):
            break
    return UNKNOWN
