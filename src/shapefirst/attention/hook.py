"""The hook that tells a denoiser's cross-attention layers which step and which rows they work on.

It stands before the denoiser, notes what each call is about, and gives every cross-attention layer a processor that
shows the layer's own one a `LayerView`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention

from shapefirst.attention.layer import LayerView, Substitution, attention_weights, grid_of, is_joint
from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families import Family, family_of
from shapefirst.guidance.branches import evaluated, halves_agree, says_guided
from shapefirst.guidance.follow import BOTH
from shapefirst.guidance.hook import Forward, ModuleHook
from shapefirst.guidance.introspection import running
from shapefirst.guidance.timeline import Generation, Told, follow, told
from shapefirst.policies.schedule import Branch

__all__ = ["AttentionHook", "DenoiserCall", "Recording", "cross_attention_layers", "resized", "within"]


class Recording:
    """What a block wants to see of the attention, and what it makes of it.

    Attributes:
        branches: Those whose attention it is shown.
    """

    branches: tuple[Branch, ...]

    def begin(self, call: DenoiserCall) -> None:
        """Another generation begins with this call."""

    def wants(self, grid: tuple[int, int]) -> bool:
        """Whether to be shown a layer of (h, w) pixels."""
        return True

    def add(
        self, branch: Branch, call: DenoiserCall, name: str, grid: tuple[int, int], attention: torch.Tensor
    ) -> None:
        """Take in one layer's maps, (B, heads, h w, L)."""
        raise NotImplementedError

    def finish(self, call: DenoiserCall) -> None:
        """All layers of a call have been shown."""


def resized(maps: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Maps (B, L, h, w) at another size: averaged where that is smaller, else interpolated."""
    if maps.shape[-2:] == size:
        return maps
    if maps.shape[-2] >= size[0] and maps.shape[-1] >= size[1]:
        return F.interpolate(maps, size, mode="area")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def within(latents: torch.Tensor, longer: int) -> tuple[int, int]:
    """The (h, w) of maps whose longer side is so many pixels, in the picture's proportions."""
    h, w = latents.shape[-2:]
    return max(1, round(h * longer / max(h, w))), max(1, round(w * longer / max(h, w)))


@dataclass
class DenoiserCall:
    """One call of the denoiser."""

    step: int
    begins_step: bool
    latents: torch.Tensor
    prompts: torch.Tensor
    substitutions: list[Substitution]
    texts: tuple[str, ...] | None  # of the pipeline's call, where it has any
    rows: dict[str, slice] | None = None  # found out where they are first asked for
    edited: torch.Tensor | None = None  # the prompts as the blocks have them


class AttentionHook(ModuleHook):
    """Keeps the blocks (`Recording` and `Substitution`), the call in progress and the layers' processors."""

    nearness = 1  # it sees what `guide` leaves
    busy = "denoiser's attention is in use"

    def __init__(self, pipe: Any, denoiser: Any) -> None:
        super().__init__(pipe, denoiser)
        self._family = _family_of(pipe)
        self._calls = threading.local()  # another pipeline may run the layers meanwhile
        self._runs: list[Generation] = []
        self._told: Told | None = None  # by the loop that made the latest call, if it has a scheduler of its own
        self._generation: object = None
        self._known: dict[Branch, torch.Tensor] = {}  # the halves of the latest guided call
        self._known_of: object = None  # and its generation
        self._layers = cross_attention_layers(denoiser)

    def attach(self) -> None:
        super().attach()
        self._stand_before_processors()

    def detach(self) -> None:
        for _, layer in self._layers:
            if isinstance(layer.processor, _Processor) and layer.processor.hook is self:
                layer.set_processor(layer.processor.inner)
        super().detach()

    def _stand_before_processors(self) -> None:
        """Again in each call: within a block others may be set, as by an IP-Adapter or sliced attention."""
        for name, layer in self._layers:
            if not isinstance(layer.processor, _Processor):
                layer.set_processor(_Processor(self, name, layer.processor))

    @property
    def call(self) -> DenoiserCall | None:
        """The one in progress in this thread."""
        return getattr(self._calls, "latest", None)

    @property
    def recordings(self) -> list[Recording]:
        return [block for block in self.blocks if isinstance(block, Recording)]

    def around(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._stand_before_processors()
        call = self._begin(self.arguments(args, kwargs))
        try:
            output = forward(*self._edited(call, args), **self._edited(call, kwargs))
        finally:
            self._calls.latest = None
        if call.begins_step:
            with torch.inference_mode(False), torch.no_grad():
                for recording in self.recordings:
                    recording.finish(call)
        return output

    def _edited(self, call: DenoiserCall, given: Any) -> Any:
        """The arguments, with the embeddings that the blocks make of the text branch's, the innermost last."""
        edits = [block for block in self.blocks if isinstance(block, Edit)]
        rows = self.rows(call, len(call.latents)).get("text") if edits else None
        if rows is None:
            return given
        if call.edited is None:
            call.edited = call.prompts.clone()
            for edit in edits:
                call.edited[rows] = edit.edited(call, call.edited[rows])
        if isinstance(given, dict):
            return {name: call.edited if value is call.prompts else value for name, value in given.items()}
        return tuple(call.edited if value is call.prompts else value for value in given)

    def _begin(self, arguments: dict[str, Any]) -> DenoiserCall:
        latents, prompts = arguments[self.latents_name], arguments["encoder_hidden_states"]
        generation, step, begins_step = self._place(arguments["timestep"])
        call = DenoiserCall(step, begins_step, latents, prompts, self._substitutions(prompts), self._texts())
        if generation is not self._generation:
            for recording in self.recordings:
                recording.begin(call)
            self._generation = generation
        self._calls.latest = call
        return call

    def _place(self, t: Any) -> tuple[object, int, bool]:
        """The generation that a call at `t` belongs to, its step, and whether the call begins that step."""
        before, self._told = self._told, told()
        if self._told is not None:
            return self._told.generation, self._told.step, self._told is not before
        run = follow(self._runs, t, self.pipe, running(self.denoiser), self.denoiser)
        return run, run.step, run.begins_step

    def _texts(self) -> tuple[str, ...] | None:
        """The prompts that the pipeline was called with; None outside of a call, or if it was given embeddings."""
        run = running(self.denoiser)
        prompt = run.names.get("prompt") if run else None
        return None if prompt is None else (prompt,) if isinstance(prompt, str) else tuple(prompt)

    def _substitutions(self, prompts: torch.Tensor) -> list[Substitution]:
        """Those that the blocks want, with embeddings as the layers get them."""
        projection: Any = getattr(self.denoiser, "caption_projection", None)
        substitutions = []
        for block in self.blocks:
            if isinstance(block, Substitution) and block.mask.any() and (block.keys or block.values):
                other = block.embeddings.to(prompts)
                if other.shape[1] != prompts.shape[1]:
                    raise ShapefirstError(
                        f"The embeddings to substitute hold {other.shape[1]} tokens, the prompt {prompts.shape[1]}: "
                        "pad them alike."
                    )
                other = projection(other) if projection is not None else other
                substitutions.append(replace(block, embeddings=other, mask=block.mask.to(other.device)))
        return substitutions

    @torch.compiler.disable
    def rows(self, call: DenoiserCall, n: int) -> dict[str, slice]:
        """Which of a layer's n rows are which branch's."""
        if call.rows is None:
            branches = evaluated() or self._found(call)
            images = n // len(branches)
            call.rows = {branch: slice(i * images, (i + 1) * images) for i, branch in enumerate(branches)}
            for one in call.substitutions:
                if "text" in call.rows and {len(one.embeddings), len(one.mask)} - {1, images}:
                    raise ShapefirstError(
                        f"There are {images} images but embeddings of {len(one.embeddings)} and positions of "
                        f"{len(one.mask)} to substitute; give one for all or one per image."
                    )
        return call.rows

    def _found(self, call: DenoiserCall) -> tuple[str, ...]:
        """The branches in the call's batch, where nobody has said which they are."""
        guided = says_guided(running(self.denoiser), call.latents, self._family, self.denoiser)
        if not guided and (guided is None or self._known_of is self._generation):  # a callback may switch it off
            for branch, prompts in self._known.items():
                if prompts.shape == call.prompts.shape and torch.equal(prompts, call.prompts):
                    return (branch,)
        if halves_agree(call.latents) if guided is None else guided:
            null, text = (half.clone() for half in call.prompts.chunk(2))
            self._known, self._known_of = {"null": null, "text": text}, self._generation
            return ("null", "text")
        if guided is False:
            return ("text",)
        empty = self._empty_prompt(call.prompts)
        is_empty = empty is not None and empty.shape[1:] == call.prompts.shape[1:]
        is_empty = is_empty and torch.allclose(call.prompts, empty.expand_as(call.prompts), atol=1e-3)
        return ("null",) if is_empty else ("text",)

    def _empty_prompt(self, like: torch.Tensor) -> Any:
        """The empty prompt's embeddings, (1, L, D); None if the pipeline has no text encoder."""
        if getattr(self.pipe, "text_encoder", None) is None:
            return None
        with torch.inference_mode(False), torch.no_grad():
            options = {"device": like.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
            return self.pipe.encode_prompt("", **options)[0].to(like)


class Edit:
    """A block that changes the prompt's embeddings on their way into the denoiser."""

    def edited(self, call: DenoiserCall, embeddings: torch.Tensor) -> torch.Tensor:
        """The text branch's (B, L, D) as the denoiser is to have them in this call."""
        raise NotImplementedError


class _Processor:
    """Stands before a cross-attention layer's own processor."""

    def __init__(self, hook: AttentionHook, name: str, inner: Any) -> None:
        self.hook, self.name, self.inner = hook, name, inner
        # The layer reads this signature to know which `cross_attention_kwargs` its processor takes.
        vars(self)["__call__"] = inner.__call__

    @torch.compiler.disable(recursive=False)
    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        given = (hidden_states, encoder_hidden_states, attention_mask, *args)
        call = self.hook.call
        recordings = self.hook.recordings if call is not None and call.begins_step else []
        if call is None or not (call.substitutions or recordings):
            return self.inner(attn, *given, **kwargs)

        rows = self.hook.rows(call, hidden_states.shape[0])
        layer = LayerView(attn, call.substitutions, rows.get("text"))
        out = self.inner(layer, *given, **kwargs)
        if layer.query is None or layer.key is None:
            raise UnsupportedPipelineError(
                f"{type(self.inner).__name__} does not compute queries and keys with the layer's to_q and to_k; "
                "undo fused projections with pipe.unfuse_qkv_projections() first."
            )
        grid = grid_of(call.latents, layer.query.shape[1])
        # Maps are ordinary tensors, also where `guide` runs a branch in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            for recording in recordings:
                for branch in recording.branches:
                    if branch in rows and recording.wants(grid):
                        attention = attention_weights(attn, layer, attention_mask, rows[branch])
                        recording.add(branch, call, self.name, grid, attention)
        return out


def _family_of(pipe: Any) -> Family:
    family = family_of(pipe)
    if family.way != "one batch" or family.branches != BOTH:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} is not known to run the null and the text branch in one batch, so it cannot be "
            "told whose attention its layers' rows are."
        )
    return family


def cross_attention_layers(denoiser: Any) -> list[tuple[str, Any]]:
    """The denoiser's layers whose pixels attend to the prompt."""
    layers = [
        (name, m)
        for name, m in denoiser.named_modules()
        if isinstance(m, Attention) and (m.is_cross_attention or is_joint(m))
    ]
    if not layers:
        raise UnsupportedPipelineError(f"{type(denoiser).__name__} has no cross-attention layers.")
    return layers
