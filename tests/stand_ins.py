"""Tiny pipelines in the place of those that documentation and examples download: their code runs as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
from PIL import Image
from tiny import PIPELINES, Tiny

STEPS = 12  # in the place of more, where the text does not matter


def put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_pretrained` gives the class's tiny pipeline, which takes prompts and sizes, and makes its own of them."""
    of_disk = diffusers.DiffusionPipeline.from_pretrained.__func__

    def from_pretrained(cls: type, name: Any, **given: Any) -> Any:
        return of_disk(cls, name, **given) if Path(name).is_dir() else _stand_in(PIPELINES[cls.__name__]())

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))


def _stand_in(row: Tiny) -> Any:
    kind = type(row.pipe)

    def call(self: Any, prompt: str | list[str], **given: Any) -> Any:
        numbers = range(1 if isinstance(prompt, str) else len(prompt))
        given["num_inference_steps"] = min(STEPS, given.get("num_inference_steps", STEPS))
        if row.pipe.vae is None:
            given["output_type"] = "latent"
        out = kind.__call__(self, **{**given, **row.options, **row.conditions(numbers)})
        if row.pipe.vae is None:
            out.frames = [[Image.new("RGB", (8, 8))] * 2 for _ in numbers]
        return out

    offload = {"enable_model_cpu_offload": lambda self: None}  # which asks for a card
    row.pipe.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__, **offload})
    return row.pipe
