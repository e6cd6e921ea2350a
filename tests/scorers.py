"""Tiny scoring models with random weights, of the classes that users load, and folders with their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIZE = 16
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}assistant: "
)


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Random images of several sizes, one of them grey."""
    rng = np.random.default_rng(seed)
    sizes = [(SIZE, SIZE), (24, 20), (20, 40)]
    images = [Image.fromarray(rng.integers(0, 256, (*sizes[i % 3], 3), dtype=np.uint8)) for i in range(count)]
    return [image.convert("L") if i == 1 else image for i, image in enumerate(images)]


def clip_tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    vocabulary = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def word_tokenizer(words: str = "yes no green bench red car") -> Any:
    """BERT's layout over whole words; anything else is [UNK]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[BOS]", "<image>", "?", *words.split()]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[BOS]",
        eos_token="[SEP]",
        additional_special_tokens=["<image>"],
        model_max_length=32,
    )


def _sizes(**others: Any) -> dict[str, Any]:
    return {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **others}


def _random(model: Any, scale: float = 8.0) -> Any:
    """Weights large enough that the outputs depend on the inputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, scale * 0.02, generator=generator)
    return model.eval()


def clip_folder(folder: Path, *, preprocessor: bool = True) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer(folder)
    config = CLIPConfig(
        text_config=_sizes(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        ),
        vision_config=_sizes(image_size=SIZE, patch_size=4),
        projection_dim=8,
    )
    _random(CLIPModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if preprocessor:
        sizes = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
        CLIPImageProcessor(**sizes, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(folder)
    return folder


def blip_folder(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

    tokenizer = word_tokenizer()
    config = BlipConfig(
        text_config=_sizes(
            vocab_size=len(tokenizer),
            encoder_hidden_size=16,
            max_position_embeddings=32,
            bos_token_id=4,
            pad_token_id=0,
            eos_token_id=3,
            sep_token_id=3,
            projection_dim=16,
        ),
        vision_config=_sizes(image_size=SIZE, patch_size=8),
    )
    _random(BlipForQuestionAnswering(config)).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": SIZE, "width": SIZE}), tokenizer).save_pretrained(folder)
    return folder


def vilt_folder(folder: Path) -> Path:
    from transformers import ViltConfig, ViltForQuestionAnswering, ViltImageProcessor, ViltProcessor

    tokenizer = word_tokenizer()
    labels = {0: "red", 1: "no", 2: "2", 3: "yes"}
    config = ViltConfig(
        **_sizes(vocab_size=len(tokenizer), image_size=SIZE, patch_size=8, max_position_embeddings=32),
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
    )
    _random(ViltForQuestionAnswering(config)).save_pretrained(folder)
    processor = ViltImageProcessor(size={"shortest_edge": SIZE}, size_divisor=8)
    ViltProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def llava_folder(folder: Path) -> Path:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = word_tokenizer("score : 1 2 3 4 5 describe this image user assistant green bench red car fit prompt")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_sizes(image_size=SIZE, patch_size=8)),
        text_config=LlamaConfig(
            **_sizes(vocab_size=len(tokenizer), num_key_value_heads=2, bos_token_id=4, eos_token_id=3, pad_token_id=0)
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    _random(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    LlavaProcessor(
        CLIPImageProcessor(**sizes),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder
