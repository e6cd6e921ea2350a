"""Tiny random networks and tokenizers, in files as the hub has them: the keys of old configurations, the names that old
versions gave to weights, tokenizers without a tokenizer.json."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WORDS = ["a", "red", "blue", "cat", "dog", "car", "house", "on", "the", "moon", "and", "photo", "wooden", "shiny"]

# Without attention among the 64 x 64 latents, which versions before 0.9 insist on: it would take most of the time.
SD_BLOCKS = {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
TOKEN = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


# --- tokenizers -----------------------------------------------------------------------------------------------------


def clip_words() -> tuple[dict[str, int], list[str]]:
    """CLIP's vocabulary, "!" first and the two special tokens last, with merges that make `WORDS` single tokens."""
    letters = ["!", *"abcdefghijklmnopqrstuvwxyz0123456789,.'-_:()"]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            if (pieces[0], pieces[1]) not in merges:
                merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *dict.fromkeys(a + b for a, b in merges)]
    return {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}, [
        " ".join(m) for m in merges
    ]


def clip_tokenizer(part: str, pad: str, *, contradicts: bool = False, decoder: bool = False) -> dict[str, bytes]:
    """A CLIP tokenizer's files as transformers 4 wrote them: no tokenizer.json.

    Args:
        part: Its folder.
        pad: The padding.
        contradicts: tokenizer_config.json names [EOS] as the padding all the same, as Stable Diffusion 2's does.
        decoder: With `added_tokens_decoder` in place of tokens as objects, as from transformers 4.34 on.
    """
    vocabulary, merges = clip_words()
    start, end = "<|startoftext|>", "<|endoftext|>"
    config: dict[str, Any] = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
    }
    config |= {"pad_token": end if contradicts else pad, "tokenizer_class": "CLIPTokenizer"}
    tokens = {"bos_token": start, "eos_token": end, "unk_token": end}
    if decoder:
        config |= tokens | {
            "added_tokens_decoder": {
                str(vocabulary[t]): {"content": t, **TOKEN, "special": True} for t in {pad, start, end}
            },
            "clean_up_tokenization_spaces": True,
        }
    else:
        config |= {name: {"__type": "AddedToken", "content": content, **TOKEN} for name, content in tokens.items()}
        config |= {
            "special_tokens_map_file": "./special_tokens_map.json",
            "name_or_path": "openai/clip-vit-large-patch14",
        }
    special = {name: {"content": content, **TOKEN} for name, content in tokens.items()} | {"pad_token": pad}
    return {
        f"{part}/vocab.json": json.dumps(vocabulary).encode(),
        f"{part}/merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
        f"{part}/tokenizer_config.json": json.dumps(config).encode(),
        f"{part}/special_tokens_map.json": json.dumps(special).encode(),
    }


def t5_tokenizer(part: str, *, fast: bool) -> dict[str, bytes]:
    """A T5 tokenizer's files: a SentencePiece model, with tokenizer.json beside it (Stable Diffusion 3) or without
    (PixArt, which has added_tokens.json instead)."""
    import io

    import sentencepiece

    chooser, model = random.Random(0), io.BytesIO()
    sentences = [" ".join(chooser.choices(WORDS, k=6)) for _ in range(200)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        minloglevel=2,
    )
    size = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size()
    extra = {f"<extra_id_{99 - i}>": size + i for i in range(100)}
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {
            **{str(i): {"content": content, **token} for i, content in enumerate(("<pad>", "</s>", "<unk>"))},
            **{str(i): {"content": content, **token, "lstrip": True, "rstrip": True} for content, i in extra.items()},
        },
        "additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)],
        "clean_up_tokenization_spaces": True,
        "eos_token": "</s>",
        "extra_ids": 100,
        "legacy": True,
        "model_max_length": 512,
        "pad_token": "<pad>",
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
        "unk_token": "<unk>",
    }
    special = {name: config[name] for name in ("additional_special_tokens", "eos_token", "pad_token", "unk_token")}
    files = {
        f"{part}/spiece.model": model.getvalue(),
        f"{part}/tokenizer_config.json": json.dumps(config).encode(),
        f"{part}/special_tokens_map.json": json.dumps(special).encode(),
        f"{part}/added_tokens.json": json.dumps(extra).encode(),
    }
    if fast:
        files[f"{part}/tokenizer.json"] = _fast(files)
    return files


def _fast(files: dict[str, bytes]) -> bytes:
    """The tokenizer.json of a SentencePiece model."""
    import tempfile

    from transformers import T5Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / Path(name).name).write_bytes(content)
        T5Tokenizer.from_pretrained(folder).save_pretrained(f"{folder}/fast")
        return (Path(folder) / "fast" / "tokenizer.json").read_bytes()


# --- networks -------------------------------------------------------------------------------------------------------


def network(library: Any, config: dict[str, Any], rename: Callable[[str], str] = str) -> tuple[dict, dict]:
    network = (
        library.from_config(config) if hasattr(library, "from_config") else library(library.config_class(**config))
    )
    # A random model hardly listens to its prompt; this makes the branches differ as a trained model's do.
    weights = {rename(k): v * 10 if "attn2.to_v" in k else v for k, v in network.state_dict().items()}
    return config, {key: value.clone().contiguous() for key, value in weights.items()}


def clip_encoder(
    width: int,
    *,
    projection: bool = False,
    dtype: str = "float32",
    positions: bool = False,
    act: str = "quick_gelu",
    layers: int = 3,
):
    """CLIP's text encoder, with `text_model.` before the names as every file on the hub has it; ``positions`` adds the
    buffer that old versions saved."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    config = {
        "architectures": [kind.__name__],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,  # a mistake of the first converter that every repository has kept
        "hidden_act": act,
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 2 * width,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": width,
        "torch_dtype": dtype,
        "transformers_version": "4.22.0.dev0",
        "vocab_size": len(clip_words()[0]),
    }
    names = lambda key: key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}"  # noqa: E731
    config, weights = network(kind, config, names)
    if positions:
        weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return config, weights


def t5_encoder(width: int, size: int):
    from transformers import T5EncoderModel

    config = {
        "architectures": ["T5EncoderModel"],
        "classifier_dropout": 0.0,
        "d_ff": 2 * width,
        "d_kv": 8,
        "d_model": width,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "num_decoder_layers": 2,
        "num_heads": 2,
        "num_layers": 2,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.35.0.dev0",
        "use_cache": True,
        "vocab_size": size,
    }
    config, weights = network(T5EncoderModel, config)
    weights.pop("encoder.embed_tokens.weight", None)  # the same as shared.weight
    return config, weights


def autoencoder(channels: int = 4, *, old: bool, **more: Any):
    """Stable Diffusion's autoencoder; ``old``: attention as diffusers named it before 0.18."""
    from diffusers import AutoencoderKL

    config = {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.6.0" if old else "0.22.0.dev0",
        "act_fn": "silu",
        "block_out_channels": [8] * 2,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "in_channels": 3,
        "latent_channels": channels,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "out_channels": 3,
        "sample_size": 64,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        **more,
    }
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(key: str) -> str:
        return next((key.replace(new, was) for new, was in names.items() if old and new in key), key)

    return network(AutoencoderKL, config, rename)


def unet(width: int, **more: Any):
    """Stable Diffusion's U-Net, as diffusers 0.6 described it."""
    from diffusers import UNet2DConditionModel

    config = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": 2,  # which means the number of heads
        "block_out_channels": [8, 8, 8, 8],
        "center_input_sample": False,
        "cross_attention_dim": width,
        **SD_BLOCKS,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 1,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 4,
        "out_channels": 4,
        "sample_size": 64,
        **more,
    }
    return network(UNet2DConditionModel, config)
