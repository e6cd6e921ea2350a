"""Whether the parts of a pipeline fit together, tried on a word and no picture: before the work, not after."""

from __future__ import annotations

import math
from typing import Any, Final

from shapefirst.errors import ModelError, first_line, shortened
from shapefirst.prompts.tokens import ENDLESS

__all__ = ["check_size", "fit_tokenizers"]

SHORTEST: Final = 3  # tokens: a word between the start and the end


def fit_tokenizers(pipe: Any, name: str) -> None:
    """Give CLIP's tokenizers the room of their text encoders where their own files do not tell it.

    Until transformers 5 a tokenizer of CLIP knew its 77 by itself, so that some models' files do without.

    Raises:
        ModelError: A tokenizer of the model called ``name`` tells a limit that is none, or its text encoder cannot read
            its tokens.
    """
    for which in ("", "_2", "_3"):
        tokenizer, encoder = (getattr(pipe, part + which, None) for part in ("tokenizer", "text_encoder"))
        if tokenizer is None or encoder is None:
            continue
        places = getattr(encoder.config, "max_position_embeddings", None)
        limit = tokenizer.model_max_length
        if places is not None and isinstance(limit, (int, float)) and limit > ENDLESS:
            limit = tokenizer.model_max_length = places
        most = ENDLESS if places is None else places
        if not isinstance(limit, (int, float)) or not (SHORTEST <= limit <= most or (limit > most == ENDLESS)):
            raise ModelError(
                f"{name} says {shortened(repr(limit))} of model_max_length in tokenizer{which}, which must be a number "
                f"from {SHORTEST} to {most:,}: correct it."
            )
        try:
            _read("a", tokenizer, encoder, places)
        except Exception as error:  # special tokens that are none, heads that no width can be divided among
            raise ModelError(
                f"The text_encoder{which} of {name} cannot read what its tokenizer{which} gives: {first_line(error)}."
            ) from error
    if hasattr(pipe, "tokenizer_max_length") and getattr(pipe, "tokenizer", None) is not None:
        pipe.tokenizer_max_length = pipe.tokenizer.model_max_length  # which it has read before


def _read(text: str, tokenizer: Any, encoder: Any, places: int | None) -> None:
    """Let CLIP's encoders read a text, and of larger ones make sure that they have its tokens."""
    import torch

    length = SHORTEST if places is None else tokenizer.model_max_length
    tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        encoder.get_input_embeddings()(tokens)
        if places is not None:
            _ = encoder(tokens, output_hidden_states=True).hidden_states[-2]


def check_size(pipe: Any, name: str) -> None:
    """Raise ModelError unless the model called ``name`` can make pictures of the size that its denoiser was trained
    at."""
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    config = getattr(denoiser, "config", {})
    size, patch, scale = config.get("sample_size", 8), config.get("patch_size", 1), getattr(pipe, "vae_scale_factor", 8)
    sides = size if isinstance(size, (list, tuple)) else [size, size]
    most = config.get("pos_embed_max_size") or math.inf
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        wanted = "must be a number"
    elif isinstance(patch, int) and any(side * scale % 8 or side % patch or side // patch > most for side in sides):
        wanted = "is no size of pictures that it can make"
    else:
        return
    raise ModelError(f"{name} says {shortened(repr(size))} of its denoiser's sample_size, which {wanted}: correct it.")
