"""Methods that skip parts of an evaluation, as they were published: packages, and diffusers' own.

All are changes of the U-Net that count as whole evaluations, and what they save is time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from .loop import Call

__all__ = ["deepcache", "pyramid_attention_broadcast", "tgate", "token_merging"]


@contextmanager
def deepcache(pipe: Any, interval: int = 5) -> Iterator[Call]:
    """DeepCache (Ma et al., CVPR 2024, arXiv 2312.00858; PyPI ``deepcache``): the deep layers in every ``interval``-th
    step only, the outermost ones always (its README's cache branch 0; its default interval is 5 in the paper's tables
    and 3 in the README).
    """
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()
    try:
        yield pipe
    finally:
        helper.disable()
        vars(pipe.unet).pop("forward", None)


@contextmanager
def tgate(pipe: Any, gate: int, *, every: int = 1) -> Iterator[Call]:
    """T-GATE (Liu et al. 2024, arXiv 2404.02747; PyPI ``tgate``): cross-attention cached, and the null branch alone,
    from step ``gate`` on.

    Before it, self-attention runs in every ``every``-th step only: T-GATE's default is 5, which costs fidelity.
    """
    from tgate import TgateSDLoader

    TgateSDLoader(pipe)
    try:
        yield partial(pipe.tgate, gate_step=gate, sp_interval=every, fi_interval=1, warm_up=2)
    finally:
        del pipe.tgate
        for module in pipe.unet.modules():  # T-GATE has no way back of its own
            for left in {"forward", "cache"} & set(vars(module)):
                delattr(module, left)


@contextmanager
def token_merging(pipe: Any, ratio: float = 0.5) -> Iterator[Call]:
    """ToMe, "Token Merging for Fast Stable Diffusion" (Bolya & Hoffman 2023, arXiv 2303.17604; PyPI ``tomesd``).

    A share of similar tokens goes through self-attention as one, where the resolution is highest. The default is its
    own.
    """
    import tomesd

    tomesd.apply_patch(pipe, ratio=ratio)
    try:
        yield pipe
    finally:
        tomesd.remove_patch(pipe)


@contextmanager
def pyramid_attention_broadcast(
    pipe: Any, spatial: int | None = 2, cross: int | None = None, between: tuple[int, int] = (100, 800)
) -> Iterator[Call]:
    """PAB, "Real-Time Video Generation with Pyramid Attention Broadcast" (Zhao et al. 2024, arXiv 2408.12588), by
    diffusers: self-attention in every ``spatial``-th step and cross-attention in every ``cross``-th, between timesteps.

    Defaults are those of diffusers.
    """
    from diffusers.hooks import HookRegistry, PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    t = [0.0]
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: t.__setitem__(0, float(args[1])))
    options = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=spatial,
        cross_attention_block_skip_range=cross,
        spatial_attention_timestep_skip_range=between,
        cross_attention_timestep_skip_range=between,
        current_timestep_callback=lambda: t[0],
    )
    apply_pyramid_attention_broadcast(pipe.unet, options)
    registry = HookRegistry.check_if_exists_or_initialize(pipe.unet)

    def call(*args: Any, **options: Any) -> Any:
        registry.reset_stateful_hooks()
        return pipe(*args, **options)

    try:
        yield call
    finally:
        handle.remove()
        registry.remove_hook("pyramid_attention_broadcast", recurse=True)
