"""What each family of diffusers pipelines can say of itself: how it is guided, and how prompts are encoded and the
denoiser is evaluated where a loop of our own can run it.

It imports only errors. A family more is one file with a subclass of ``family.Family``, and one entry in ``FAMILIES``
below: the names of the pipelines that it serves. A pipeline that only `guide` is to run needs no more than its name
there, by the layout of its guidance, and a row in ``tests/tiny``. What is not named is met by whole calls, untested.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from shapefirst.families.embeddings import Embeddings
from shapefirst.families.family import Family
from shapefirst.families.own_loop import OwnLoop, name_of
from shapefirst.families.pixart import PixArt
from shapefirst.families.sd3 import StableDiffusion3
from shapefirst.families.sdxl import StableDiffusionXL
from shapefirst.families.stable_diffusion import StableDiffusion
from shapefirst.families.stages import UnCLIP, Wuerstchen
from shapefirst.families.wan import Wan

__all__ = ["FAMILIES", "UNKNOWN", "Embeddings", "Family", "OwnLoop", "family_of", "family_of_class", "name_of"]


def _named(family: Family, names: str) -> dict[str, Family]:
    return dict.fromkeys(names.split(), family)


#: Name of a pipeline's class -> its family: those of the matrix of ``tests/test_matrix.py``, each of which was run
#: against a reference there.
FAMILIES: Final[dict[str, Family]] = {
    **_named(
        Family(),
        """
        AllegroPipeline AnimateDiffControlNetPipeline AnimateDiffPipeline AnimateDiffSDXLPipeline
        AnimateDiffSparseControlNetPipeline AnimateDiffVideoToVideoControlNetPipeline AnimateDiffVideoToVideoPipeline
        AnyFlowPipeline AudioLDM2Pipeline AudioLDMPipeline AuraFlowPipeline BriaFiboPipeline BriaPipeline
        CogVideoXFunControlPipeline CogVideoXImageToVideoPipeline CogVideoXPipeline CogVideoXVideoToVideoPipeline
        CogView3PlusPipeline EasyAnimateInpaintPipeline EasyAnimatePipeline ErnieImagePipeline HiDreamImagePipeline
        HunyuanDiTControlNetPipeline HunyuanDiTPipeline I2VGenXLPipeline IFImg2ImgPipeline IFPipeline
        IFSuperResolutionPipeline Kandinsky3Img2ImgPipeline Kandinsky3Pipeline KandinskyImg2ImgPipeline
        KandinskyPipeline KandinskyPriorPipeline KandinskyV22CombinedPipeline KandinskyV22ControlnetPipeline
        KandinskyV22Img2ImgPipeline KandinskyV22Pipeline KandinskyV22PriorPipeline KolorsImg2ImgPipeline KolorsPipeline
        LDMTextToImagePipeline LTX2ImageToVideoPipeline LTX2Pipeline LTXConditionPipeline LTXImageToVideoPipeline
        LTXPipeline LattePipeline MochiPipeline MusicLDMPipeline PIAPipeline PRXPipeline PaintByExamplePipeline
        SanaControlNetPipeline SanaImageToVideoPipeline SanaPipeline SanaVideoPipeline ShapEPipeline
        StableAudio3Pipeline StableAudioPipeline StableDiffusion3ControlNetInpaintingPipeline
        StableDiffusion3ControlNetPipeline StableDiffusion3Img2ImgPipeline StableDiffusion3InpaintPipeline
        StableDiffusionAdapterPipeline StableDiffusionControlNetImg2ImgPipeline
        StableDiffusionControlNetInpaintPipeline StableDiffusionControlNetPipeline StableDiffusionControlNetXSPipeline
        StableDiffusionDepth2ImgPipeline StableDiffusionGLIGENPipeline StableDiffusionImageVariationPipeline
        StableDiffusionImg2ImgPipeline StableDiffusionInpaintPipeline StableDiffusionLDM3DPipeline
        StableDiffusionLatentUpscalePipeline StableDiffusionUpscalePipeline StableDiffusionXLAdapterPipeline
        StableDiffusionXLControlNetImg2ImgPipeline StableDiffusionXLControlNetInpaintPipeline
        StableDiffusionXLControlNetPipeline StableDiffusionXLControlNetUnionPipeline StableDiffusionXLImg2ImgPipeline
        StableDiffusionXLInpaintPipeline StableUnCLIPImg2ImgPipeline StableUnCLIPPipeline TextToVideoSDPipeline
        """,
    ),
    **_named(
        Family(branches=("text", "null")),
        """
        AceStepPipeline DiTPipeline LuminaPipeline StableCascadeDecoderPipeline StableCascadePriorPipeline
        ZImageImg2ImgPipeline ZImagePipeline
        """,
    ),
    **_named(
        Family(branches=("text", "image", "null"), without_text=("image", "null"), same_latents=False),
        "StableDiffusionInstructPix2PixPipeline StableDiffusionXLInstructPix2PixPipeline",
    ),
    **_named(Family(same_latents=False), "StableVideoDiffusionPipeline"),
    **_named(
        Family(
            refused="reads its attention maps after every call of its denoiser, which a skipped call does not make."
        ),
        "StableDiffusionSAGPipeline",
    ),
    **_named(
        Family(refused="has its denoiser remember the frames of every call, which a skipped call does not add to."),
        "AnyFlowFARPipeline",
    ),
    **_named(
        Family(way="two calls", branches=("text", "null")),
        """
        ChromaImg2ImgPipeline ChromaPipeline CogView4Pipeline Cosmos2TextToImagePipeline CosmosTextToWorldPipeline
        Flux2KleinPipeline FluxControlNetPipeline FluxImg2ImgPipeline FluxPipeline GlmImagePipeline
        HunyuanImagePipeline HunyuanVideo15Pipeline HunyuanVideoPipeline Kandinsky5T2IPipeline Kandinsky5T2VPipeline
        Krea2Pipeline LongCatImagePipeline Lumina2Pipeline OvisImagePipeline QwenImageControlNetPipeline
        QwenImageImg2ImgPipeline QwenImageInpaintPipeline QwenImagePipeline SkyReelsV2DiffusionForcingPipeline
        SkyReelsV2Pipeline WanVideoToVideoPipeline
        """,
    ),
    **_named(UnCLIP(), "UnCLIPPipeline"),
    **_named(Wuerstchen(), "WuerstchenDecoderPipeline WuerstchenPriorPipeline"),
    **_named(Wan(), "WanImageToVideoPipeline WanPipeline"),
    "StableDiffusionPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
    "PixArtAlphaPipeline": PixArt(),
    "PixArtSigmaPipeline": PixArt(),
    **_named(
        Family(way="whole calls"),
        """
        AnimateDiffPAGPipeline ConsistencyModelPipeline DDIMPipeline DDPMPipeline DanceDiffusionPipeline
        Flux2KleinKVPipeline Flux2Pipeline FluxControlPipeline FluxFillPipeline FluxInpaintPipeline
        FluxKontextPipeline HunyuanDiTPAGPipeline KolorsPAGPipeline LatentConsistencyModelImg2ImgPipeline
        LatentConsistencyModelPipeline MarigoldDepthPipeline PixArtSigmaPAGPipeline SanaPAGPipeline
        SanaSprintImg2ImgPipeline SanaSprintPipeline SemanticStableDiffusionPipeline
        StableDiffusion3PAGImg2ImgPipeline StableDiffusion3PAGPipeline StableDiffusionControlNetPAGPipeline
        StableDiffusionPAGImg2ImgPipeline StableDiffusionPAGPipeline StableDiffusionPanoramaPipeline
        StableDiffusionXLControlNetPAGPipeline StableDiffusionXLPAGImg2ImgPipeline StableDiffusionXLPAGPipeline
        """,
    ),
}

#: Pipelines that nothing is known of.
UNKNOWN: Final = Family(way="whole calls")

#: Names in the code of a `__call__` that betray another layout than that of the class that it was derived from.
_OTHER_LAYOUTS: Final = frozenset(
    {
        "image_guidance_scale",
        "pag_scale",
        "sag_scale",
        "true_cfg_scale",
        "guidance_scale_2",
        "editing_prompt",
        "prior_guidance_scale",
        "view_batch_size",
    }
)


def family_of(pipe: Any) -> Family:
    """The family of a pipeline; `UNKNOWN` if it is of none."""
    return pipe.family if isinstance(pipe, OwnLoop) else family_of_class(type(pipe))


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
