"""Blocks and the hooks of others in any order: what is open holds, and nothing is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import compress
from typing import Any

import accelerate.hooks
import pytest
import torch
from diffusers import PyramidAttentionBroadcastConfig
from diffusers.hooks import HookRegistry, ModelHook, apply_pyramid_attention_broadcast
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from test_guidance import generate

from shapefirst.attention.recording import record, substitute
from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.blocks import apply, guide, is_steered, text_until
from shapefirst.guidance.callback import text_until_callback
from shapefirst.sampling.loop import encode

STEPS = 3
POLICIES = ("paper:1", "paper:2", "text:1", "every:2", "full")
#: What else is done to a denoiser or a layer of it -> how it is taken back.
OTHERS: dict[str, Callable[[Any], Callable[[], Any]]] = {
    "a hook of torch before": lambda m: m.register_forward_pre_hook(lambda module, args: None).remove,
    "a hook of torch after": lambda m: m.register_forward_hook(lambda module, args, out: None).remove,
}
#: Those that put a forward of their own in the place of the one that they find, and so go as they came.
CACHE = "pyramid_attention_broadcast"
WRAPPERS = ("diffusers", "accelerate")


def wrapped(module: Any, kind: str, name: str) -> Callable[[], Any]:
    """Put a hook on as a library does."""
    if kind == "diffusers":
        registry = HookRegistry.check_if_exists_or_initialize(module)
        registry.register_hook(ModelHook(), name)
        return lambda: registry.remove_hook(name)
    if not hasattr(module, "_hf_hook"):
        accelerate.hooks.add_hook_to_module(module, accelerate.hooks.ModelHook())
        return lambda: accelerate.hooks.remove_hook_from_module(module)
    return lambda: None  # accelerate has one, and takes it off to put another beside it


class AnyOrder(RuleBasedStateMachine):
    stock: Any  # a pipeline, of the test that runs it
    others: list[Any]
    known: dict[Any, Any]

    def __init__(self) -> None:
        super().__init__()
        self.pipe = copy.copy(self.stock)
        self.pipe.unet = copy.deepcopy(self.stock.unet)
        self.blocks: dict[int, tuple[str, Any, Any, Callable[[], Any]]] = {}  # by the order of entrance
        self.foreign: dict[int, Callable[[], Any]] = {}
        self.wrappers: list[Callable[[], Any]] = []
        self.entered = 0
        self.before = self.traces()

    def traces(self) -> list[Any]:
        """All that could be left behind; accelerate itself leaves a module's own forward among its attributes."""
        return [
            (
                type(m).__mro__,
                set(vars(m)) - {"forward", "_diffusers_hook"},
                getattr(m.forward, "__func__", m.forward),
                len(m._forward_hooks) + len(m._forward_pre_hooks),
                id(getattr(m, "processor", None)),
            )
            for m in self.pipe.unet.modules()
        ]

    def begin(self, kind: str, what: Any, make: Callable[[], Any]) -> None:
        if kind == "guide" and what not in ("full", "every:2") and self.hooked(CACHE):
            with pytest.raises(UnsupportedPipelineError, match="A cache of diffusers"):
                make()
            return
        block = make()
        value = block.__enter__()
        self.entered += 1
        self.blocks[self.entered] = kind, what, value, lambda: block.__exit__(None, None, None)

    @rule(policy=st.sampled_from(POLICIES))
    def enter_guide(self, policy: str) -> None:
        self.begin("guide", policy, lambda: guide(self.pipe, policy))

    @rule(step=st.integers(1, 2))
    def enter_text_until(self, step: int) -> None:
        self.begin("guide", f"paper:{step}", lambda: text_until(self.pipe, step))

    @rule(policy=st.sampled_from(POLICIES))
    @precondition(lambda self: not self.hooked(CACHE))
    def put_on(self, policy: str) -> None:
        handle = apply(self.pipe, policy)
        self.entered += 1
        self.blocks[self.entered] = "guide", policy, handle.evaluations, handle.remove

    @rule()
    def enter_record(self) -> None:
        self.begin("record", None, lambda: record(self.pipe, size=4))

    @rule(which=st.integers(0, 1), keys=st.booleans())
    def enter_substitute(self, which: int, keys: bool) -> None:
        block = partial(substitute, self.pipe, self.others[which], [which, 2], keys=keys)
        self.begin("substitute", (which, keys), block)

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        *_, end = self.blocks.pop(data.draw(st.sampled_from(list(self.blocks))))
        end()

    @rule(kind=st.sampled_from(list(OTHERS)), layer=st.booleans())
    def hook_of_torch(self, kind: str, layer: bool) -> None:
        self.entered += 1
        self.foreign[self.entered] = OTHERS[kind](self.layer if layer else self.pipe.unet)

    @precondition(lambda self: self.foreign)
    @rule(data=st.data())
    def remove_a_hook_of_torch(self, data: Any) -> None:
        self.foreign.pop(data.draw(st.sampled_from(list(self.foreign))))()

    @rule(kind=st.sampled_from(WRAPPERS))
    def wrap(self, kind: str) -> None:
        self.entered += 1
        self.wrappers.append(wrapped(self.pipe.unet, kind, f"hook {self.entered}"))

    @precondition(lambda self: self.wrappers)
    @rule()
    def unwrap(self) -> None:
        self.wrappers.pop()()

    @precondition(lambda self: not self.hooked("layerwise_casting"))
    @rule()
    def cast_layer_by_layer(self) -> None:
        """Which cannot be taken back."""
        self.pipe.unet.enable_layerwise_casting(torch.float16, torch.float32)

    @precondition(lambda self: not self.hooked(CACHE))
    @rule()
    def switch_a_cache_on(self) -> None:
        apply_pyramid_attention_broadcast(self.pipe.unet, self.cache())

    @precondition(lambda self: self.hooked(CACHE))
    @rule()
    def switch_the_cache_off(self) -> None:
        self.unhook()

    def cache(self) -> PyramidAttentionBroadcastConfig:
        """It is asked in each step, and never has its turn."""
        return PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-2, -1),
            current_timestep_callback=lambda: 0,
        )

    def hooked(self, name: str) -> list[HookRegistry]:
        """Where a library's hook is."""
        registries = [getattr(m, "_diffusers_hook", None) for m in self.pipe.unet.modules()]
        return [one for one in registries if one is not None and one.get_hook(name) is not None]

    def unhook(self) -> None:
        for registry in self.hooked(CACHE):
            registry.remove_hook(CACHE, recurse=False)

    @rule(kind=st.sampled_from([AttnProcessor, AttnProcessor2_0]))
    def set_a_processor(self, kind: type) -> None:
        self.layer.set_processor(kind())
        self.before = None  # blocks leave it where it is

    @rule(cut=st.sampled_from([None, None, 1, 2]))
    def generate(self, cut: int | None) -> None:
        policies = [what for kind, what, *_ in self.blocks.values() if kind == "guide"]
        edits = tuple(what for kind, what, *_ in self.blocks.values() if kind == "substitute")
        policy = policies[-1] if policies else "full"
        if cut is not None and policy not in ("full", "paper:1", "paper:2"):
            return
        more = {} if cut is None else {"callback_on_step_end": text_until_callback(self.pipe, cut)}
        if policy not in ("full", "every:2") and self.hooked(CACHE):
            with pytest.raises(UnsupportedPipelineError, match="A cache of diffusers"):
                generate(self.pipe, num_inference_steps=STEPS, **more)
            return
        made = generate(self.pipe, num_inference_steps=STEPS, **more)
        if cut is not None:
            policy = f"paper:{min(cut, int(policy[-1]))}" if policy != "full" else f"paper:{cut}"
        expected, maps = self.reference(policy, edits)
        assert (made - expected).abs().max() < 1e-4
        for kind, _, value, _ in self.blocks.values():
            if kind == "record":
                assert set(value.text) == set(maps)
                assert all((value.text[step] - maps[step]).abs().max() < 1e-4 for step in maps)

    def reference(self, policy: str, edits: Any) -> Any:
        return self.known[policy, edits]

    @property
    def layer(self) -> Any:
        return next(m for name, m in self.pipe.unet.named_modules() if name.endswith("attn2"))

    @invariant()
    def is_steered_as_long_as_there_is_a_block(self) -> None:
        assert is_steered(self.pipe.unet) == any(kind == "guide" for kind, *_ in self.blocks.values())

    def teardown(self) -> None:
        for *_, end in self.blocks.values():
            end()
        for end in (*self.foreign.values(), *self.wrappers[::-1], self.unhook):
            end()
        if self.before is not None:
            cast = self.hooked("layerwise_casting")
            bare = [getattr(m, "_diffusers_hook", None) not in cast for m in self.pipe.unet.modules()]
            assert [*compress(self.traces(), bare)] == [*compress(self.before, bare)]
        made = generate(self.pipe, num_inference_steps=STEPS)
        assert (made - self.known["full", ()][0]).abs().max() < 1e-4
        assert not any(
            "shapefirst" in type(m.processor).__module__ for m in self.pipe.unet.modules() if hasattr(m, "processor")
        )


class References(dict[Any, Any]):
    """(policy, substitutions) -> latents and maps, each made once, in blocks that are left as they were entered."""

    def __init__(self, pipe: Any, others: list[Any]) -> None:
        super().__init__()
        self.pipe, self.others = pipe, others

    def __missing__(self, key: Any) -> Any:
        policy, edits = key
        with ExitStack() as stack:
            stack.enter_context(guide(self.pipe, policy))
            for which, keys in edits:
                stack.enter_context(substitute(self.pipe, self.others[which], [which, 2], keys=keys))
            maps = stack.enter_context(record(self.pipe, size=4))
            latents = generate(self.pipe, num_inference_steps=STEPS)
        self[key] = latents, maps.text
        return self[key]


def test_in_any_order(make_pipe):
    pipe = make_pipe()
    pipe.unet = copy.deepcopy(pipe.unet)
    pipe.unet.half().float()  # weights that layerwise casting does not change
    others = [encode(pipe, [prompt]).text for prompt in ("a blue house", "one bird")]
    machine = type("Machine", (AnyOrder,), {"stock": pipe, "others": others, "known": References(pipe, others)})
    run_state_machine_as_test(machine, settings=settings(max_examples=8, stateful_step_count=25, deadline=None))


@pytest.fixture
def edited(make_pipe: Any) -> Any:
    """A pipeline, and what is edited on it."""
    pipe = make_pipe()
    pipe.unet = copy.deepcopy(pipe.unet)
    return pipe, (pipe, encode(pipe, ["a blue house"]).text, [1, 2])


def test_a_layer_is_given_another_processor_within_a_block(edited):
    pipe, edit = edited
    layers = [m for m in pipe.unet.modules() if hasattr(m, "processor")]
    with record(pipe) as maps, substitute(*edit):
        expected = generate(pipe)
        recorded = dict(maps.text)
        pipe.unet.set_attn_processor(AttnProcessor())
        made = generate(pipe)
        assert all((maps.text[step] - recorded[step]).abs().max() < 1e-5 for step in recorded)
    assert (made - expected).abs().max() < 1e-4
    assert {type(layer.processor) for layer in layers} == {AttnProcessor}


def test_the_steps_without_text_of_a_callback_are_not_taken_for_steps_with_it(edited):
    pipe, edit = edited
    with record(pipe, null=True) as maps, substitute(*edit), text_until(pipe, 2):
        expected = generate(pipe)
        recorded = maps.text.keys(), maps.null.keys()
    with record(pipe, null=True) as maps, substitute(*edit):
        made = generate(pipe, callback_on_step_end=text_until_callback(pipe, 2))
        assert (maps.text.keys(), maps.null.keys()) == recorded == ({0, 1}, {0, 1, 2, 3})
    assert (made - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["guide", "record", "substitute"])
def test_a_block_is_entered_again_and_within_itself(edited, kind):
    pipe, edit = edited
    make = {"guide": lambda: guide(pipe, "paper:1"), "record": lambda: record(pipe)}
    block = make.get(kind, lambda: substitute(*edit))()
    before, stock = type(pipe.unet).__mro__, generate(pipe)
    with pytest.raises(ShapefirstError, match="left as often as it was entered"):
        block.__exit__(None, None, None)
    with block:
        expected = generate(pipe)
    with block as outer:
        with block as inner:
            assert (generate(pipe) - expected).abs().max() < 1e-4
        assert outer is None or outer is not inner
        assert (generate(pipe) - expected).abs().max() < 1e-4
    assert type(pipe.unet).__mro__ == before
    assert (generate(pipe) == stock).all()
    with pytest.raises(ShapefirstError, match="left as often as it was entered"):
        block.__exit__(None, None, None)
