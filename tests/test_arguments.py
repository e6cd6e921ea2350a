"""What a denoiser is given besides the latents is cut where it is one row for each of theirs, and only there."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import naive
import pytest
import torch
from test_guidance import Spy, W, generate, trace
from test_pipelines import animate_diff

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.guidance.blocks import guide, text_until
from shapefirst.guidance.rows import Taking, rows_of
from shapefirst.policies.schedule import TextSchedule

N = 5
POLICIES = ["paper:2", "text:2", "every:2", "every:2,keep=null", "tol:0.05,keep=text"]
DROPPING = [policy for policy in POLICIES if policy != "every:2"]


def check_text(pipe: Any, call: Any, images: int, frames: int = 1) -> None:
    """Text in the first k steps, against the stock call with both branches evaluated in every one."""
    stock = call()
    for k in (0, 2):
        with text_until(pipe, k) as evaluations, Spy(pipe) as spy:
            found = call()
        with naive.both_branches_in(pipe.unet, lambda i, k=k: i < k):
            expected = call()
        assert naive.error(found, stock) > 1e-7
        assert naive.error(found, expected) < 1e-4
        assert evaluations.rows == spy.rows / frames == images * (N + k)
    for policy in POLICIES[1:]:
        with guide(pipe, policy):
            assert naive.error(call(), stock) < 1
    with guide(pipe, "full"):
        assert torch.equal(call(), stock)


# --- IP-Adapters ----------------------------------------------------------------------------------------------------


def with_adapters(pipe: Any, count: int) -> Any:
    """The pipeline with so many random IP-Adapters of four tokens."""
    pipe = copy.copy(pipe)
    pipe.unet = copy.deepcopy(pipe.unet)
    layers = [name for name in pipe.unet.attn_processors if "attn2" in name]
    states = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int, generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        weights = {}
        for i, name in enumerate(layers):
            layer = pipe.unet.get_submodule(name.removesuffix(".processor"))
            for kind in ("k", "v"):
                weights[f"{2 * i + 1}.to_{kind}_ip.weight"] = drawn(layer.to_k.out_features, 16)
        image = {"proj.weight": drawn(4 * 16, 6), "proj.bias": drawn(64), "norm.weight": drawn(16)}
        states.append({"image_proj": {**image, "norm.bias": drawn(16)}, "ip_adapter": weights})
    pipe.unet._load_ip_adapter_weights(states)
    pipe.unet.eval()
    pipe.set_ip_adapter_scale([0.7] * count)
    return pipe


def masks(adapters: int, images: int) -> torch.Tensor:
    """(adapters, images, 16, 16), of halves of the picture."""
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    return torch.stack([torch.stack([left, 1 - left][:images])] * adapters)


@pytest.mark.parametrize(
    ("form", "adapters", "rows"),
    [("none", 1, 2), ("none", 2, 1), ("list", 1, 1), ("list", 2, 2), ("tensor", 1, 2), ("tensor", 2, 1)],
)
def test_image_prompts_and_their_masks(make_pipe, form, adapters, rows):
    """Two adapters' masks in one tensor have as many entries as the batch of a single image has rows."""
    pipe, prompts = with_adapters(make_pipe(), adapters), ["a red cat", "two dogs"][:rows]
    images = 2 if form == "list" else 1
    drawn = torch.randn(adapters, 2, images, 6, generator=torch.Generator().manual_seed(7))
    options: dict[str, Any] = {"ip_adapter_image_embeds": list(drawn), "num_inference_steps": N}
    if form == "list":
        options["cross_attention_kwargs"] = {"ip_adapter_masks": [mask[None] for mask in masks(adapters, 2)]}
    elif form == "tensor":
        options["cross_attention_kwargs"] = {"ip_adapter_masks": masks(adapters, 1)}
    check_text(pipe, lambda: generate(pipe, prompts, [1, 2][:rows], **options), rows)


def test_image_prompts_that_do_not_go_with_the_prompts(make_pipe):
    """The stock call shares out their tokens to the rows, whichever they are; which are whose cannot be told. Where all
    rows run or none, nobody has to know."""
    pipe = with_adapters(make_pipe(), 1)
    before = trace(pipe)
    options = {"ip_adapter_image_embeds": [torch.randn(3, 1, 6)], "num_inference_steps": N}
    for policy in DROPPING:
        with (
            guide(pipe, policy) as evaluations,
            pytest.raises(
                UnsupportedPipelineError, match="given 4 rows of latents but 6 of image_embeds, so it cannot"
            ),
        ):
            generate(pipe, ["a cat", "a dog"], [1, 2], **options)
        assert evaluations.calls == 0
    for policy in ("full", "every:2"):
        with guide(pipe, policy):
            generate(pipe, ["a cat", "a dog"], [1, 2], **options)
    assert trace(pipe) == before


# --- videos ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def video_pipe(make_pipe: Any) -> Any:
    return animate_diff(make_pipe)


@pytest.mark.parametrize(
    ("frames", "prompts"), [(1, ["a red cat", "two dogs"]), (4, ["a red cat"]), (4, ["a red cat", "two dogs"])]
)
def test_a_video_has_a_row_of_embeddings_for_each_frame(video_pipe, frames, prompts):
    def call() -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
        options = {"num_frames": frames, "num_inference_steps": N, "guidance_scale": W, "output_type": "latent"}
        return video_pipe(prompts, generator=generators, **options).frames

    check_text(video_pipe, call, len(prompts), frames)


def test_a_video_by_the_extrapolated_equation(video_pipe):
    """Against the loop written out."""
    text, null = (naive.encode(video_pipe, prompt)[0].repeat(3, 1, 1) for prompt in (["a red cat"], [""]))
    noise = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"num_frames": 3, "num_inference_steps": N, "guidance_scale": W, "output_type": "latent"}
    scheduler = copy.deepcopy(video_pipe.scheduler)
    scheduler.set_timesteps(N)
    x, seen = noise, {}
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            u = float(torch.tensor(naive.sigma_over_alpha(scheduler, float(t))).log1p())
            eps_null = video_pipe.unet(x, t, null).sample
            if i in (0, 1, 3):
                seen[u] = video_pipe.unet(x, t, text).sample - eps_null
            last = list(seen)[-2:]
            d = seen[u] if u in seen else naive.polynomial(last, [seen[at] for at in last], u)
            x = scheduler.step(eps_null + W * d, t, x).prev_sample
    with guide(video_pipe, TextSchedule.at([0, 1, 3], keep="null")):
        found = video_pipe("a red cat", latents=noise, **options).frames
    assert naive.error(found, x) < 1e-4


# --- the rule -------------------------------------------------------------------------------------------------------


def test_blocks_of_rows():
    """k entries for each of 2B rows are cut by k, in whatever the denoiser is given."""
    x = torch.arange(12)[:, None]
    for rows, kept in (([1], [3, 4, 5]), ([0, 1], range(6)), ([0, 3], [0, 1, 2, 9, 10, 11])):
        taking = Taking(rows, 4)
        for given in (x, [x], (x, x), {"a": {"b": [x]}}):
            found = rows_of("encoder_hidden_states", given, taking)
            while not isinstance(found, torch.Tensor):
                found = next(iter(found.values())) if isinstance(found, dict) else found[-1]
            assert found.flatten().tolist() == list(kept)


def test_what_is_for_all_rows_alike_stays():
    taking = Taking([0], 2)
    for name, x in {
        "timestep": torch.tensor(3),
        "padding_mask": torch.zeros(1, 4),
        "image_rotary_emb": (torch.zeros(8, 4), torch.zeros(8, 4)),
        "img_ids": torch.zeros(2, 3),
        "cross_attention_kwargs": {"ip_adapter_masks": torch.zeros(2, 1, 4, 4), "mine": torch.zeros(77), "scale": 0.5},
    }.items():
        found = rows_of(name, x, taking)
        pairs = zip(_tensors(found), _tensors(x), strict=True)
        assert all(a is b for a, b in pairs)
    boxes = {"gligen": {"boxes": torch.zeros(2, 30, 4)}}
    assert rows_of("cross_attention_kwargs", boxes, taking)["gligen"]["boxes"].shape == (1, 30, 4)


def _tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, (tuple, list)):
        return [x for part in tree for x in _tensors(part)]
    return [tree] if isinstance(tree, torch.Tensor) else []


@pytest.mark.parametrize("policy", DROPPING)
def test_what_cannot_be_told_is_refused_before_anything_runs(make_pipe, policy):
    pipe = make_pipe()
    before = trace(pipe)

    class Hinted(diffusers.StableDiffusionPipeline):
        @torch.no_grad()
        def __call__(self, prompt: Any, guidance_scale: float = 5.0, **options: Any) -> Any:
            self._guidance_scale = guidance_scale
            self.scheduler.set_timesteps(N)
            for t in self.scheduler.timesteps:
                given = {"encoder_hidden_states": torch.randn(2, 77, 16), "class_labels": torch.zeros(3)}
                self.unet(torch.zeros(2, 4, 8, 8), t, **given).sample.chunk(2)

    hinted = Hinted(**pipe.components, requires_safety_checker=False)
    with (
        guide(hinted, policy) as evaluations,
        pytest.raises(UnsupportedPipelineError, match="given 2 rows of latents but 3 of class_labels, so it cannot"),
    ):
        hinted("a cat")
    assert evaluations.calls == 0
    assert trace(pipe) == before
