"""Texts of all sorts; small tokenizers of the very classes of CLIP and T5, and pipelines that read with them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

#: Letters whose case, marks or compositions are not one to one, and what joins or parts.
_TRICKY = (
    "a b_-'’—\u0301\u0323\u0307İıßſŉʼ\u200d\u200b\u00ad\u0f73\u0345\uac01\u1100\u1161\u11a8é\u093f\u0939!.\n\ufe0f🙂ᾳΣς"
)
#: Prompts hold no control characters (see `shapefirst.checks`).
_ANY = st.characters(exclude_categories=("Cs", "Cc"))
TEXTS = st.text(alphabet=_ANY, max_size=30) | st.text(alphabet=_TRICKY, max_size=16)


def bytes_of_clip(folder: Path, pad: str = "<|endoftext|>", limit: int = 77) -> Any:
    """CLIP's BPE without merges: every byte of a text is a token, and one that ends a word has its own."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = ["!", *sorted(set(ByteLevel.alphabet()) - {"!"})]  # "!" has the id 0, as in OpenAI's
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    return CLIPTokenizer(*files, pad_token=pad, model_max_length=limit)


def pieces_of_t5(limit: int = 120) -> Any:
    """T5's own class, which writes the blank before a word into its first piece: "▁red"; NFKC as SentencePiece has it.

    A word that begins with no known piece has its blank in a piece of its own, and unknown letters are one <unk>.
    """
    from tokenizers import normalizers
    from transformers import T5Tokenizer

    pieces = ["▁", "▁a", "▁red", "▁car", "▁caf", "é", "'", ",", "-", "(", ")", ":", ".", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [(special, 0.0) for special in ("<pad>", "</s>", "<unk>")] + [(p, -2.0) for p in pieces]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=2, model_max_length=limit)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


def reading_with(pipe: Any, tokenizer: Any) -> Any:
    """The pipeline with another tokenizer, and a random text encoder of CLIP that knows its tokens."""
    from transformers import CLIPTextModel

    config = copy.deepcopy(pipe.text_encoder.config)
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    pipe.tokenizer, pipe.text_encoder = tokenizer, CLIPTextModel(config).eval()
    return pipe


def with_inversion(pipe: Any, token: str, vectors: int) -> Any:
    """The pipeline with a textual inversion of so many vectors, by diffusers' own loader."""
    width = pipe.text_encoder.config.hidden_size
    pipe.load_textual_inversion({token: torch.randn(vectors, width)})
    return pipe


def ids_read(pipe: Any, prompt: str, **options: Any) -> list[int]:
    """The tokens that the pipeline's own call gives its text encoder for this prompt."""
    seen: list[list[int]] = []
    note = pipe.text_encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0].tolist()))
    try:
        pipe(prompt, num_inference_steps=1, output_type="latent", **options)
    finally:
        note.remove()
    return seen[0]
