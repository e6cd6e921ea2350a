"""Text in the first steps only, for those who cannot have hooks on their denoiser: as a `callback_on_step_end`.

    pipe("a wooden car", callback_on_step_end=text_until_callback(pipe, step=25))

After the last step with text the callback switches guidance off, and leaves the pipeline's loop the conditions of one
branch. So it works where the loop takes back all that has rows for both, which is the case in `TENSORS`.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import torch
from diffusers.callbacks import PipelineCallback
from diffusers.utils.torch_utils import unwrap_module

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.counting import warn_unguided
from shapefirst.guidance.introspection import running
from shapefirst.guidance.timeline import steps_of
from shapefirst.policies.schedule import Branch, TextSchedule

__all__ = ["text_until_callback"]

_XL: Final = ("prompt_embeds", "add_text_embeds", "add_time_ids")

#: A class of pipelines with both branches in one batch -> all that its loop holds with rows for both.
TENSORS: Final[dict[str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": ("prompt_embeds",),
    "StableDiffusionImg2ImgPipeline": ("prompt_embeds",),
    "StableDiffusionInpaintPipeline": ("prompt_embeds", "mask", "masked_image_latents"),
    "StableDiffusionDepth2ImgPipeline": ("prompt_embeds", "depth_mask"),
    "StableDiffusionControlNetPipeline": ("prompt_embeds", "image"),
    "StableDiffusionControlNetImg2ImgPipeline": ("prompt_embeds", "control_image"),
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": (*_XL, "mask", "masked_image_latents"),
    "StableDiffusionXLControlNetPipeline": (*_XL, "image"),
    "StableDiffusionXLControlNetImg2ImgPipeline": (*_XL, "control_image"),
    "StableDiffusion3Pipeline": ("prompt_embeds", "pooled_prompt_embeds"),
}
#: A class of pipelines with a call for each branch -> what its loop calls the text and the null conditions.
PAIRS: Final = {"WanPipeline": ("prompt_embeds", "negative_prompt_embeds")}

Rows: TypeAlias = torch.Tensor | list[torch.Tensor] | None


def text_until_callback(
    pipe: Any, step: int | None = None, *, fraction: float | str | None = None, keep: Branch = "null"
) -> PipelineCallback:
    """What `text_until` does, as a callback, at any batch size; the pipeline is as it was after a call.

    diffusers' own for it (`SDCFGCutoffCallback`) keeps the text branch, and fails at any batch size above 1. A callback
    is first called after a step, so at least one uses the text. It serves all calls of the pipeline, one at a time, and
    goes together with others in a `MultiPipelineCallbacks`. A call that is interrupted leaves `pipe.guidance_scale` at
    1 until the next one sets it.

    Args:
        pipe: The pipeline that will be called with it.
        step: As in `shapefirst.text_until`; 1 or more.
        fraction: The same.
        keep: The same.

    Raises:
        UnsupportedPipelineError: The pipeline's loop does not take back all that has rows for both branches; after the
            first step, if an IP-Adapter or a ControlNet's guess mode brings in more of that.
        ShapefirstError: Not exactly one of step and fraction, or one that is out of range; after the first step, one
            that leaves no step with text or is beyond the generation's steps.
    """
    return _TextUntil(pipe, TextSchedule.until(step, fraction=fraction, keep=keep), step)


class _TextUntil(PipelineCallback):
    def __init__(self, pipe: Any, schedule: TextSchedule, step: int | None) -> None:
        self._schedule, self._loop = schedule, _loop_of(pipe)
        if step == 0 or schedule.fraction == 0:
            raise ShapefirstError(_TOO_LATE)
        _check_adapter(pipe)
        super().__init__(cutoff_step_ratio=schedule.fraction, cutoff_step_index=step)
        self._cut = self._end = 0  # the calls of the denoiser after which there is no text, and no further one
        self._has_warned = False
        self._scale: float | None = None  # w, while it is switched off

    @property
    def tensor_inputs(self) -> list[str]:
        return list(TENSORS.get(self._loop) or PAIRS[self._loop])

    def callback_fn(self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]) -> Any:
        if step_index == 0:
            self._begin(pipeline, callback_kwargs)
        if step_index == self._cut < self._end and pipeline.do_classifier_free_guidance:
            self._scale, pipeline._guidance_scale = pipeline._guidance_scale, 1.0
            callback_kwargs.update(self._kept(callback_kwargs))
        elif step_index == self._end and self._scale is not None:
            pipeline._guidance_scale, self._scale = self._scale, None
        return callback_kwargs

    def _begin(self, pipeline: Any, given: dict[str, Any]) -> None:
        if _loop_of(pipeline) != self._loop:
            raise ShapefirstError(
                f"This callback was made for a {self._loop}, not for a {type(pipeline).__name__}: make one for it."
            )
        if missing := [name for name in self.tensor_inputs if name not in given]:
            raise ShapefirstError(
                f"The callback needs {', '.join(missing)}: give the call callback_on_step_end_tensor_inputs="
                f"{self.tensor_inputs}, which are the callback's tensor_inputs."
            )
        self._scale = None
        caller = running(_denoiser_of(pipeline))
        looped = None if caller is None else caller.timesteps
        steps = steps_of(pipeline.scheduler, pipeline.num_timesteps if looped is None else len(looped))
        text_steps = self._schedule.text_steps(steps[-1] + 1)
        if text_steps == 0:
            raise ShapefirstError(_TOO_LATE)
        self._cut, self._end = sum(step < text_steps for step in steps) - 1, len(steps) - 1
        if pipeline.do_classifier_free_guidance:
            _check_adapter(pipeline)
            self._check_rows(pipeline, given)
        elif self._cut < self._end and not self._has_warned:
            self._has_warned = True
            warn_unguided(type(pipeline).__name__, "guide(pipe, budget=0.6), which skips whole evaluations")

    def _check_rows(self, pipeline: Any, given: dict[str, Any]) -> None:
        """Raise UnsupportedPipelineError unless what the loop takes back is all that has rows for both branches."""
        if self._loop in PAIRS:
            return
        rows, names = len(given["prompt_embeds"]), self.tensor_inputs
        beside = getattr(pipeline, "cross_attention_kwargs", None) or getattr(pipeline, "joint_attention_kwargs", None)
        if any(len(x) != rows for name in names for x in _each(given[name])):
            raise UnsupportedPipelineError(
                f"This call of {type(pipeline).__name__} has other than {rows} rows in one of {', '.join(names)}, as "
                "in a ControlNet's guess mode, so a callback cannot drop a branch: use text_until()."
            )
        if any(isinstance(x, torch.Tensor) and x.ndim and len(x) == rows for x in (beside or {}).values()):
            raise UnsupportedPipelineError(
                f"This call of {type(pipeline).__name__} hands its attention tensors of {rows} rows, as with an "
                "IP-Adapter, of which a callback cannot drop a branch: use text_until()."
            )

    def _kept(self, given: dict[str, Any]) -> dict[str, Rows]:
        """The conditions of the branch that is kept, in the place of both."""
        keeps_text = self._schedule.keep == "text"
        if self._loop in PAIRS:
            text, null = PAIRS[self._loop]
            return {} if keeps_text else {text: given[null]}
        return {name: _half(given[name], int(keeps_text)) for name in self.tensor_inputs}


_TOO_LATE: Final = (
    "A callback is first called after step 0, so that one uses the text: give a step of 1 or more, or use text_until()."
)


def _loop_of(pipe: Any) -> str:
    """The class in diffusers whose loop the pipeline runs. Raises UnsupportedPipelineError if it is not known."""
    caller = next((base for base in type(pipe).__mro__ if "__call__" in vars(base)), object)
    if caller.__module__.startswith("diffusers.") and caller.__name__ in {*TENSORS, *PAIRS}:
        return caller.__name__
    raise UnsupportedPipelineError(
        f"The loop of {type(pipe).__name__} is not known to take back all that it holds of both branches, so that a "
        "callback could drop one: use text_until()."
    )


def _denoiser_of(pipe: Any) -> Any:
    return unwrap_module(getattr(pipe, "unet", None) or pipe.transformer)


def _check_adapter(pipe: Any) -> None:
    """Raise UnsupportedPipelineError if an IP-Adapter hands the denoiser what the loop does not take back."""
    config = getattr(_denoiser_of(pipe), "config", None)
    if getattr(config, "encoder_hid_dim_type", None) == "ip_image_proj":
        raise UnsupportedPipelineError(
            f"The IP-Adapter of this {type(pipe).__name__} has conditions of both branches that a callback cannot "
            "drop: unload it with unload_ip_adapter(), or use text_until()."
        )


def _each(value: Rows) -> list[torch.Tensor]:
    """The tensors of a condition: several ControlNets have one each, and there may be none."""
    return [] if value is None else [value] if isinstance(value, torch.Tensor) else value


def _half(value: Rows, place: int) -> Rows:
    halves = [x.chunk(2)[place] for x in _each(value)]
    return halves if isinstance(value, list) else halves[0] if halves else None
