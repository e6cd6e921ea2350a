"""Cross-attention on a stock diffusers pipeline, watched and edited.

    A = softmax(Q K^T / sqrt(d)),   out = A V,   Q = x W_q,   K = C W_k,   V = C W_v      (per head; C the prompt)

    with record(pipe) as maps:                  # A, per step and token; the image stays the same bit for bit
        pipe("a red car")
    with substitute(pipe, other, positions):    # some tokens' K, V or both from another prompt's C
        pipe("a red car")

Every cross-attention layer keeps its own processor, fused attention included. That processor is merely handed a view
of its layer that notes Q and K as they are computed, and edits K and V; A is computed beside it, from the same Q and K.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

import torch

from shapefirst.attention.hook import (
    AttentionHook,
    DenoiserCall,
    Recording,
    cross_attention_layers,
    resized,
    within,
)
from shapefirst.attention.layer import Substitution, is_joint
from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families.layout import denoiser_of
from shapefirst.guidance.hook import Reentrant
from shapefirst.policies.schedule import Branch
from shapefirst.prompts.edits import mask_of
from shapefirst.prompts.tokens import Positions
from shapefirst.signatures import Axes, From, Positive, guarded

__all__ = ["Maps", "class_weights", "kl_divergence", "record", "substitute"]

Position: TypeAlias = Annotated[int, From(0)]
AnyMaps: TypeAlias = Annotated[torch.Tensor, Axes("B L h w")]


@dataclass
class Maps:
    """Cross-attention maps of the latest generation, by step; float32, on the CPU. A new generation clears them.

    Attributes:
        text: Step -> (B, L, h, w), the text branch's weights, averaged over heads and layers. They sum to 1 over the L
            tokens at every pixel; in joint attention (SD 3) over tokens and pixels, so to less. A step that does not
            evaluate the text branch is absent.
        null: Likewise for the null branch; empty unless asked for.
        text_layers: Step -> layer's name -> (B, heads, L, h', w'), the layer's own size; empty unless asked for.
        null_layers: Likewise for the null branch.
    """

    text: dict[int, torch.Tensor] = field(default_factory=dict)
    null: dict[int, torch.Tensor] = field(default_factory=dict)
    text_layers: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    null_layers: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)

    def clear(self) -> None:
        for steps in (self.text, self.null, self.text_layers, self.null_layers):
            steps.clear()


@dataclass(eq=False)
class _Averaging(Recording):
    """What one `record` block wants, and what it has of the call in progress."""

    maps: Maps
    size: int
    resolutions: frozenset[int] | None
    branches: tuple[Branch, ...]
    full: bool
    #: Sums over the layers of one grid, (B, h w, L), and their number.
    sums: dict[tuple[Branch, tuple[int, int]], tuple[torch.Tensor, int]] = field(default_factory=dict)
    #: Longer sides of the layers met, recorded or not.
    seen: set[int] = field(default_factory=set)

    def begin(self, call: DenoiserCall) -> None:
        self.maps.clear()
        self.sums, self.seen = {}, set()

    def wants(self, grid: tuple[int, int]) -> bool:
        self.seen.add(max(grid))
        return self.resolutions is None or max(grid) in self.resolutions

    def add(
        self, branch: Branch, call: DenoiserCall, name: str, grid: tuple[int, int], attention: torch.Tensor
    ) -> None:
        if self.full:
            layers = self.maps.text_layers if branch == "text" else self.maps.null_layers
            layers.setdefault(call.step, {})[name] = attention.transpose(2, 3).unflatten(3, grid).cpu()
        total, count = self.sums.get((branch, grid), (0, 0))
        self.sums[branch, grid] = (attention.mean(1) + total, count + 1)

    def finish(self, call: DenoiserCall) -> None:
        """Average over layers: linear, so layers of one grid were summed first and are resized once."""
        if self.seen and not self.sums:
            raise ShapefirstError(
                f"No cross-attention layer has one of the resolutions {sorted(self.resolutions or ())}; here they have "
                f"{sorted(self.seen)}."
            )
        target = within(call.latents, self.size)
        for branch in self.branches:
            parts = [(grid, *part) for (of, grid), part in self.sums.items() if of == branch]
            if parts:
                layers = [resized(x.transpose(1, 2).unflatten(2, grid), target) for grid, x, _ in parts]
                mean = torch.stack(layers).sum(0) / sum(count for *_, count in parts)
                (self.maps.text if branch == "text" else self.maps.null)[call.step] = mean.cpu()
        self.sums, self.seen = {}, set()


@guarded
def record(
    pipe: Any,
    *,
    size: Annotated[int, From(1, 4096)] = 16,
    resolutions: Collection[Positive] | None = None,
    null: bool = False,
    full: bool = False,
) -> AbstractContextManager[Maps]:
    """Within the block, generations of `pipe` leave their cross-attention maps in the `Maps` that it yields.

    The images stay the same bit for bit. Memory: 4 B L h w bytes a step, and with `full` every head of every layer.
    Steps are counted as `guide` and `denoise` count them. Of a solver with two evaluations a step (Heun) the first is
    recorded, the one on x_t. Works with `guide`, in either order, and with `denoise`.

    In a loop of your own over the pipeline's parts the branch is found from the batch: it is a guided one if both
    halves of the latents are equal; one branch alone is null if its embeddings are those of the latest guided call's
    null half, or of the empty prompt, and text otherwise. `shapefirst.guidance.branches.evaluating` says it instead,
    and `shapefirst.guidance.timeline.taking_step` the step.

    Args:
        pipe: A stock diffusers pipeline, Stable Diffusion, SDXL, SD 3 or PixArt.
        size: Longer side h or w of the averaged maps; the shorter follows the picture. Layers with more pixels are
            averaged down to it, layers with fewer interpolated bilinearly.
        resolutions: Longer sides of the layers to record (64, 32, 16 and 8 in Stable Diffusion 1.5); by default all.
        null: Also record the null branch.
        full: Also keep each layer's maps, each head for itself.

    Raises:
        UnsupportedPipelineError: Here, if the pipeline is of an unknown layout; in the first step, if its timestep is
            not in the scheduler's list, or an attention processor hides Q and K (fused projections).
        ShapefirstError: A size or resolution that is no positive number; after the first step, if no layer has one of
            the `resolutions`.
    """
    branches: tuple[Branch, ...] = ("text", "null") if null else ("text",)
    wanted = None if resolutions is None else frozenset(resolutions)
    denoiser = denoiser_of(pipe)

    def begin() -> tuple[Maps, Callable[[], None]]:
        block = _Averaging(Maps(), size, wanted, branches, full)
        return block.maps, partial(AttentionHook.enter(pipe, denoiser, block).leave, block)

    return Reentrant(begin, "A recording", "write `with record(pipe) as maps:` above the pipeline's call.")


@guarded
def substitute(
    pipe: Any,
    embeddings: Annotated[torch.Tensor, Axes("B L D")],
    positions: Sequence[Position] | Sequence[Sequence[Position]],
    *,
    keys: bool = True,
    values: bool = True,
) -> AbstractContextManager[None]:
    """Within the block, some tokens' keys or values in cross-attention come from another prompt (Yi et al. 2024, A4).

    Only the text branch is edited; null rows, self-attention and the mask of padding (T5) stay. Blocks nest: where two
    name the same position, the inner one wins. How branches are told apart: see `record`, with which it combines; the
    maps are then those of the substituted keys.

    Args:
        pipe: A stock diffusers pipeline, Stable Diffusion or PixArt.
        embeddings: (B, L, D) or (1, L, D), the other prompts as the pipeline's text encoder gives them.
        positions: The token positions to replace, from 0: the same for all rows, or one sequence for each of B rows.
        keys: Substitute the keys.
        values: Substitute the values.

    Raises:
        UnsupportedPipelineError: As for `record`.
        ShapefirstError: Embeddings of another width than the denoiser's, a position beyond L, another number of rows
            than there are embeddings; in the first step, another number of images or of tokens than the batch's.
    """
    denoiser = denoiser_of(pipe)
    if getattr(denoiser, "caption_projection", None) is not None:
        width = denoiser.config.caption_channels
    else:
        layer = cross_attention_layers(denoiser)[0][1]
        if is_joint(layer):
            raise UnsupportedPipelineError(
                f"{type(denoiser).__name__} attends to picture and prompt at once, in joint attention, where a token "
                "is another one in each layer: edit() changes what the denoiser is given."
            )
        width = layer.cross_attention_dim
    if embeddings.shape[-1] != width:
        raise ShapefirstError(
            f"The embeddings are of shape {tuple(embeddings.shape)}; this denoiser takes (images, tokens, {width})."
        )
    rows: Sequence[Any] = positions if all(isinstance(row, Sequence) for row in positions) else [positions]
    mask = mask_of(rows or [()], embeddings.shape[1])
    if 1 not in (len(mask), len(embeddings)) and len(mask) != len(embeddings):
        raise ShapefirstError(f"There are positions for {len(mask)} images but embeddings of {len(embeddings)}.")

    def begin() -> tuple[None, Callable[[], None]]:
        block = Substitution(embeddings, mask, keys, values)
        return None, partial(AttentionHook.enter(pipe, denoiser, block).leave, block)

    return Reentrant(begin, "A substitution", "write `with substitute(pipe, ...):` above the pipeline's call.")


@guarded
def class_weights(maps: AnyMaps, positions: Positions | Sequence[Positions]) -> dict[str, torch.Tensor]:
    """The share of the attention that each class of tokens gets, averaged over pixels (Yi et al. 2024, F3).

    A class's weight is the sum over its tokens, so that the three add up to 1.

    Args:
        maps: (B, L, h, w), as in `Maps`.
        positions: Where the prompt's tokens stand; one for all rows, or one per row.

    Returns:
        "sos", "sem" and "eos" (with its padding, as the paper counts it), each (B,).

    Raises:
        ShapefirstError: Positions of another number of prompts or tokens than the maps'.
    """
    weights = maps.mean((2, 3))
    rows = [positions] * len(maps) if isinstance(positions, Positions) else list(positions)
    if len(rows) != len(maps):
        raise ShapefirstError(f"There are maps of {len(maps)} images but positions of {len(rows)} prompts.")
    shares: dict[str, list[torch.Tensor]] = {"sos": [], "sem": [], "eos": []}
    for weight, row in zip(weights, rows, strict=True):
        classes = {"sos": row.sos, "sem": row.sem, "eos": row.paper_eos}
        if sum(map(len, classes.values())) != len(weight):
            raise ShapefirstError(f"The maps hold {len(weight)} tokens, the positions another number: pad them alike.")
        for name, places in classes.items():
            shares[name].append(weight[list(places)].sum())
    return {name: torch.stack(share) for name, share in shares.items()}


@guarded
def kl_divergence(p: AnyMaps, q: AnyMaps, *, over: Literal["tokens", "pixels"] = "tokens") -> torch.Tensor:
    """KL(p || q) = sum p log(p / q) between attention maps, in nats (Yi et al. 2024, A5).

    The maps are normalised first, so `torch.ones_like(p)` is the uniform map. Which distributions the paper compares is
    not said in its public text; over tokens is our choice, because that is how a softmax makes them.

    Args:
        p: (B, L, h, w), as in `Maps`.
        q: The same shape.
        over: "tokens": each pixel's distribution over tokens, averaged over pixels, (B,). "pixels": each token's
            distribution over pixels, (B, L), nan for a token without any weight (masked padding).

    Raises:
        ShapefirstError: Maps of different shapes.
    """
    if p.shape != q.shape:
        raise ShapefirstError(f"Maps of shapes {tuple(p.shape)} and {tuple(q.shape)} cannot be compared.")
    dim = 1 if over == "tokens" else (2, 3)
    p, q = (x.double() / x.double().sum(dim, keepdim=True) for x in (p, q))
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(dim)
    return divergence.mean((1, 2)) if over == "tokens" else divergence
