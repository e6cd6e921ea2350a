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

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.models.attention_processor import Attention

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance import _said_guided, _same, guiding_hook
from shapefirst.layout import denoiser_of
from shapefirst.schedule import Branch
from shapefirst.timeline import position_of, steps_of
from shapefirst.tokens import Positions

__all__ = ["Maps", "class_weights", "kl_divergence", "record", "substitute"]

_HOOK = "shapefirst.attention"


@dataclass
class Maps:
    """Cross-attention maps of the latest generation, by step; float32, on the CPU. A new generation clears them.

    Attributes:
        text: Step -> (B, L, h, w), the text branch's weights, averaged over heads and layers. They sum to 1 over the L
            tokens at every pixel. A step that does not evaluate the text branch is absent.
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


def record(
    pipe: Any,
    *,
    size: int = 16,
    resolutions: Collection[int] | None = None,
    null: bool = False,
    full: bool = False,
) -> AbstractContextManager[Maps]:
    """Within the block, generations of `pipe` leave their cross-attention maps in the `Maps` that it yields.

    The images stay the same bit for bit. Memory: 4 B L h w bytes a step, and with `full` every head of every layer.
    Steps are counted as `guide` and `denoise` count them. Of a solver with two evaluations a step (Heun) the first is
    recorded, the one on x_t. Works with `guide`, in either order, and with `denoise`.

    In `denoise`, and in a loop of your own over the pipeline's parts, the branch is found from the batch: it is a
    guided one if both halves of the latents are equal; one branch alone is null if its embeddings are those of the
    latest guided call's null half, or of the empty prompt, and text otherwise.

    Args:
        pipe: A stock diffusers pipeline, Stable Diffusion or PixArt.
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
    for value in (size, *(() if resolutions is None else resolutions)):
        if not isinstance(value, int) or value < 1:
            raise ShapefirstError(f"A map's size is a whole number of pixels from 1 up, not {value!r}.")
    maps = Maps()
    branches: tuple[Branch, ...] = ("text", "null") if null else ("text",)
    block = _Recording(maps, size, None if resolutions is None else frozenset(resolutions), branches, full)
    return _within(pipe, denoiser_of(pipe), block, maps)


def substitute(
    pipe: Any,
    embeddings: torch.Tensor,
    positions: Sequence[int] | Sequence[Sequence[int]],
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
    projection = getattr(denoiser, "caption_projection", None)
    width = denoiser.config.caption_channels if projection is not None else _layers(denoiser)[0][1].cross_attention_dim
    if embeddings.ndim != 3 or embeddings.shape[-1] != width:
        raise ShapefirstError(
            f"The embeddings are of shape {tuple(embeddings.shape)}; this denoiser takes (images, tokens, {width})."
        )
    rows = [list(row) if isinstance(row, Sequence) else [row] for row in positions]
    if not all(isinstance(row, Sequence) for row in positions):
        rows = [[position for row in rows for position in row]]
    mask = torch.zeros(max(len(rows), 1), embeddings.shape[1], 1, dtype=torch.bool)
    for row, places in zip(mask, rows, strict=False):
        for place in places:
            if not 0 <= place < len(row):
                raise ShapefirstError(f"There is no token position {place}: the embeddings hold {len(row)}.")
            row[place] = True
    if 1 not in (len(mask), len(embeddings)) and len(mask) != len(embeddings):
        raise ShapefirstError(f"There are positions for {len(mask)} images but embeddings of {len(embeddings)}.")
    return _within(pipe, denoiser, _Substitution(embeddings, mask, keys, values), None)


def class_weights(maps: torch.Tensor, positions: Positions | Sequence[Positions]) -> dict[str, torch.Tensor]:
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


def kl_divergence(p: torch.Tensor, q: torch.Tensor, *, over: Literal["tokens", "pixels"] = "tokens") -> torch.Tensor:
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


# --- what blocks do in a call ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Substitution:
    embeddings: torch.Tensor  # (1 or B, L, D)
    mask: torch.Tensor  # (1 or B, L, 1), True where substituted
    keys: bool
    values: bool


@dataclass(eq=False)
class _Recording:
    maps: Maps
    size: int
    resolutions: frozenset[int] | None
    branches: tuple[Branch, ...]
    full: bool
    #: Sums over layers of one grid, (B, h w, L), and their number: of the call in progress only.
    sums: dict[tuple[Branch, tuple[int, int]], tuple[torch.Tensor, int]] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)

    def add(self, branch: Branch, call: _Call, name: str, grid: tuple[int, int], attention: torch.Tensor) -> None:
        """Take in one layer's maps, (B, heads, h w, L)."""
        if self.full:
            layers = self.maps.text_layers if branch == "text" else self.maps.null_layers
            layers.setdefault(call.step, {})[name] = attention.transpose(2, 3).unflatten(3, grid).cpu()
        total, count = self.sums.get((branch, grid), (0, 0))
        self.sums[branch, grid] = (attention.mean(1) + total, count + 1)

    def finish(self, call: _Call) -> None:
        """Average over layers: linear, so layers of one grid were summed first and are resized once."""
        if self.seen and not self.sums:
            raise ShapefirstError(
                f"No cross-attention layer has one of the resolutions {sorted(self.resolutions or ())}; here they have "
                f"{sorted(self.seen)}."
            )
        h, w = call.latents.shape[-2:]
        target = tuple(max(1, round(side * self.size / max(h, w))) for side in (h, w))
        for branch in self.branches:
            parts = [(grid, *part) for (of, grid), part in self.sums.items() if of == branch]
            if parts:
                layers = [_resized(x.transpose(1, 2).unflatten(2, grid), target) for grid, x, _ in parts]
                mean = torch.stack(layers).sum(0) / sum(count for *_, count in parts)
                (self.maps.text if branch == "text" else self.maps.null)[call.step] = mean.cpu()
        self.sums = {}


def _resized(x: torch.Tensor, target: tuple[int, ...]) -> torch.Tensor:
    if x.shape[-2:] == target:
        return x
    if x.shape[-2] >= target[0] and x.shape[-1] >= target[1]:
        return F.interpolate(x, target, mode="area")
    return F.interpolate(x, target, mode="bilinear", align_corners=False)


# --- how they get there ---------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """One generation, from its first denoiser call on."""

    timesteps: torch.Tensor  # kept, so that its place in memory stays its own
    solver: Any  # the pipeline's scheduler, or a stand-in with the timesteps of a copy
    values: list[float]
    steps: list[int]
    first: int
    last: int


@dataclass
class _Call:
    """One call of the denoiser."""

    step: int
    shown: bool  # whether it is its step's first evaluation
    latents: torch.Tensor
    prompts: torch.Tensor
    others: dict[_Substitution, tuple[torch.Tensor, torch.Tensor]]  # other prompts, as the layers get them; masks
    rows: dict[Branch, slice] | None = None  # found out in the first layer, where `guide` has done its part


class _Layer:
    """A cross-attention layer as its processor sees it: Q and K are noted, K and V edited."""

    def __init__(self, attn: Any, call: _Call, rows: slice | None) -> None:
        self._attn, self._rows = attn, rows
        self._others = call.others if rows else {}
        self.query: torch.Tensor | None = None
        self.key: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attn, name)

    def to_q(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        self.query = self._attn.to_q(x, *args)
        return self.query

    def to_k(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        self.key = self._edited("keys", self._attn.to_k, x, *args)
        return self.key

    def to_v(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        return self._edited("values", self._attn.to_v, x, *args)

    def _edited(self, what: str, project: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any) -> torch.Tensor:
        y = project(x, *args)
        for block, (other, mask) in self._others.items():
            if getattr(block, what):
                if self._attn.norm_cross is not None:
                    other = self._attn.norm_encoder_hidden_states(other)
                y = y.clone()
                y[self._rows] = torch.where(mask, project(other, *args), y[self._rows])
        return y


class _Processor:
    """Stands before a cross-attention layer's own processor."""

    def __init__(self, hook: _AttentionHook, name: str, inner: Any) -> None:
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
        recordings = self.hook.recordings if call is not None and call.shown else []
        if call is None or not (call.others or recordings):
            return self.inner(attn, *given, **kwargs)

        rows = self.hook.rows(call, hidden_states.shape[0])
        layer = _Layer(attn, call, rows.get("text"))
        out = self.inner(layer, *given, **kwargs)
        if layer.query is None or layer.key is None:
            raise UnsupportedPipelineError(
                f"{type(self.inner).__name__} does not compute queries and keys with the layer's to_q and to_k; "
                "undo fused projections with pipe.unfuse_qkv_projections() first."
            )
        grid = _grid(call.latents, layer.query.shape[1])
        # Maps are ordinary tensors, also where `guide` runs a branch in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            for recording in recordings:
                for branch in recording.branches:
                    if branch not in rows:
                        continue
                    recording.seen.add(max(grid))
                    if recording.resolutions is None or max(grid) in recording.resolutions:
                        attention = _attention(attn, layer.query, layer.key, attention_mask, rows[branch])
                        recording.add(branch, call, self.name, grid, attention)
        return out


def _attention(attn: Any, q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None, rows: slice) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d) + mask) of some rows, (B, heads, h w, L), in float32."""
    n = len(q)
    q, k = (x[rows].detach().unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k))
    if attn.norm_q is not None:
        q = attn.norm_q(q)
    if attn.norm_k is not None:
        k = attn.norm_k(k)
    scores = (q.float() * attn.scale) @ k.float().transpose(2, 3)
    if mask is not None:  # (n, 1, L), or repeated for each head
        scores += mask.view(n, -1, *mask.shape[-2:])[rows]
    return scores.softmax(-1)


def _grid(latents: torch.Tensor, pixels: int) -> tuple[int, int]:
    """The (h, w) of a layer with h w pixels: denoisers halve the latents' sides, rounding up."""
    h, w = latents.shape[-2:]
    while h * w > pixels:
        h, w = math.ceil(h / 2), math.ceil(w / 2)
    if h * w != pixels:
        raise UnsupportedPipelineError(
            f"An attention layer has {pixels} pixels, which is not the latents' {tuple(latents.shape[-2:])} halved."
        )
    return h, w


def _layers(denoiser: Any) -> list[tuple[str, Any]]:
    """The denoiser's cross-attention layers."""
    layers = [(name, m) for name, m in denoiser.named_modules() if isinstance(m, Attention) and m.is_cross_attention]
    if not layers:
        raise UnsupportedPipelineError(f"{type(denoiser).__name__} has no cross-attention layers.")
    return layers


class _AttentionHook(ModelHook):
    """Tells the processors the step and the rows of the call that they are in."""

    def __init__(self, pipe: Any, denoiser: Any) -> None:
        super().__init__()
        self.pipe, self.denoiser = pipe, denoiser
        self.blocks: list[_Recording | _Substitution] = []  # the innermost is the last
        self.call: _Call | None = None
        self._run: _Run | None = None
        self._known: dict[Branch, torch.Tensor] = {}  # the halves of the latest guided call
        self._had = {name for name in ("_diffusers_hook", "forward") if name in vars(denoiser)}
        self._places = {name: place for place, name in enumerate(inspect.signature(denoiser.forward).parameters)}
        self._latents = next(iter(self._places))  # `sample` of a U-Net, `hidden_states` of a transformer
        self._processors = [(m, _Processor(self, name, m.processor)) for name, m in _layers(denoiser)]

    @property
    def recordings(self) -> list[_Recording]:
        return [block for block in self.blocks if isinstance(block, _Recording)]

    def attach(self) -> None:
        HookRegistry.check_if_exists_or_initialize(self.denoiser).register_hook(self, _HOOK)
        for layer, processor in self._processors:
            layer.set_processor(processor)

    def detach(self) -> None:
        """Leave the denoiser as it was found, to the last attribute."""
        for layer, processor in self._processors:
            if layer.processor is processor:  # nobody has set another one meanwhile
                layer.set_processor(processor.inner)
        registry = getattr(self.denoiser, "_diffusers_hook", None)
        if registry is not None:
            registry.remove_hook(_HOOK, recurse=False)
            if not registry.hooks:
                for name in {"_diffusers_hook", "forward"} - self._had:
                    delattr(self.denoiser, name)

    @torch.compiler.disable
    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        given = {name: args[place] for name, place in self._places.items() if place < len(args)} | kwargs
        prompts, run = given["encoder_hidden_states"], self._follow(given["timestep"])
        step = run.steps[run.last]
        shown = run.last == run.first or run.steps[run.last - 1] < step
        if run.solver is self.pipe.scheduler:  # a pipeline may start late: image to image
            step -= run.steps[run.first]
        others = {}
        projection: Any = getattr(module, "caption_projection", None)
        for block in self.blocks:
            if isinstance(block, _Substitution) and block.mask.any() and (block.keys or block.values):
                other = block.embeddings.to(prompts)
                if other.shape[1] != prompts.shape[1]:
                    raise ShapefirstError(
                        f"The embeddings to substitute hold {other.shape[1]} tokens, the prompt {prompts.shape[1]}: "
                        "pad them alike."
                    )
                others[block] = (projection(other) if projection is not None else other, block.mask.to(other.device))
        for recording in self.recordings:
            recording.sums, recording.seen = {}, set()
        self.call = _Call(step, shown, given[self._latents], prompts, others)
        return args, kwargs

    @torch.compiler.disable
    def post_forward(self, module: torch.nn.Module, output: Any) -> Any:
        call, self.call = self.call, None
        if call is not None and call.shown:
            with torch.inference_mode(False), torch.no_grad():
                for recording in self.recordings:
                    recording.finish(call)
        return output

    def _follow(self, t: Any) -> _Run:
        """The run that this call belongs to, brought up to date; a new one clears the maps."""
        timesteps, run = self._list_of(t), self._run
        if run is None or run.timesteps.data_ptr() != timesteps.data_ptr():
            solver, values = self.pipe.scheduler, timesteps.tolist()
            if timesteps.data_ptr() != solver.timesteps.data_ptr():
                # A copy of the scheduler, as in `denoise`; N is the number of different timesteps.
                order = getattr(solver, "order", 1)
                solver = SimpleNamespace(timesteps=timesteps, order=order, num_inference_steps=len(set(values)))
            run = _Run(timesteps, solver, values, steps_of(solver), first=-1, last=-1)
        position = position_of(t, run.solver, run.values, last=run.last if run.last >= 0 else None)
        if position is None:
            raise UnsupportedPipelineError(
                f"{type(self.pipe).__name__} gave its denoiser the timestep {float(torch.as_tensor(t).flatten()[0])}, "
                "which is not in its scheduler's list, so the step cannot be told."
            )
        if run.first < 0 or position < run.last:
            run = replace(run, first=position)
            for recording in self.recordings:
                recording.maps.clear()
        run.last, self._run = position, run
        return run

    def _list_of(self, t: Any) -> torch.Tensor:
        """The timesteps that `t` is an element of (or an expanded view of one); else the scheduler's."""
        listed = self.pipe.scheduler.timesteps
        if not isinstance(t, torch.Tensor) or any(n > 1 and s for n, s in zip(t.shape, t.stride(), strict=True)):
            return listed
        entries = t.untyped_storage().nbytes() // t.element_size()
        if t.untyped_storage().data_ptr() == listed.untyped_storage().data_ptr() or (entries == 1 and t._base is None):
            return listed
        return t.detach().as_strided((entries,), (1,), 0)

    def rows(self, call: _Call, n: int) -> dict[Branch, slice]:
        """Which of a layer's n rows are which branch's."""
        if call.rows is None:
            call.rows = self._rows(call, n)
            images = n // len(call.rows)
            for other, mask in call.others.values():
                if "text" in call.rows and {len(other), len(mask)} - {1, images}:
                    raise ShapefirstError(
                        f"There are {images} images but embeddings of {len(other)} and positions of {len(mask)} to "
                        "substitute; give one for all or one per image."
                    )
        return call.rows

    def _rows(self, call: _Call, n: int) -> dict[Branch, slice]:
        whole = slice(0, n)
        both: dict[Branch, slice] = {"null": slice(0, n // 2), "text": slice(n // 2, n)}
        guide = guiding_hook(self.denoiser)
        if guide is not None and guide.run is not None and guide.run.guided:
            schedule = guide.blocks[-1].schedule
            if not schedule.uses_text(guide.run.step, guide.run.num_steps):
                return {schedule.keep: whole}

        said = _said_guided(self.pipe)
        if said is False:
            return {"text": whole}
        halves_agree = n % 2 == 0 and _same(*call.latents.chunk(2))
        if said:
            if not halves_agree:
                raise UnsupportedPipelineError(
                    f"{type(self.pipe).__name__} gave its denoiser a batch of {n} rows that is not the latents twice, "
                    "so it does not hold a null and a text half."
                )
            return both
        for branch, prompts in self._known.items():
            if prompts.shape == call.prompts.shape and torch.equal(prompts, call.prompts):
                return {branch: whole}
        if halves_agree:
            self._known = {branch: call.prompts[rows].clone() for branch, rows in both.items()}
            return both
        empty = self._empty_prompt(call.prompts)
        is_empty = empty is not None and empty.shape[1:] == call.prompts.shape[1:]
        is_empty = is_empty and torch.allclose(call.prompts, empty.expand_as(call.prompts), atol=1e-3)
        return {"null" if is_empty else "text": whole}

    def _empty_prompt(self, like: torch.Tensor) -> Any:
        """The empty prompt's embeddings, (1, L, D); None if the pipeline has no text encoder."""
        if getattr(self.pipe, "text_encoder", None) is None:
            return None
        with torch.inference_mode(False), torch.no_grad():
            options = {"device": like.device, "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
            return self.pipe.encode_prompt("", **options)[0].to(like)


@contextmanager
def _within(pipe: Any, denoiser: Any, block: Any, value: Any) -> Iterator[Any]:
    """The `with` block: on the hook that an outer one has put on the denoiser, or on a new one."""
    registry = getattr(denoiser, "_diffusers_hook", None)
    hook = registry.get_hook(_HOOK) if registry else None
    if hook is None:
        hook = _AttentionHook(pipe, denoiser)
        hook.attach()
    if hook.pipe is not pipe:
        raise ShapefirstError("This denoiser's attention is in use through another pipeline: end that block.")
    hook.blocks.append(block)
    try:
        yield value
    finally:
        hook.blocks = [other for other in hook.blocks if other is not block]
        if not hook.blocks:
            hook.detach()
