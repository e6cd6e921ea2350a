"""A solver that a policy brings along, as plain data: a class of scheduler and its configuration."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shapefirst.errors import ShapefirstError, said
from shapefirst.signatures import guarded

__all__ = ["Solver", "config_of", "is_flow", "is_of_first_order", "shift_of"]

#: Flux' in 4096 tokens, exp(1.15), and about Stable Diffusion 3's.
DYNAMIC_SHIFT: Final = 3.0
_FIRST_ORDER: Final = ("DDIMScheduler", "DDIMParallelScheduler", "EulerDiscreteScheduler")
_FIRST_ORDER_OF_FLOWS: Final = ("FlowMatchEulerDiscreteScheduler",)


@guarded
@dataclass(frozen=True)
class Solver:
    """What a pipeline samples with within `guide`, in the place of its own scheduler.

    Attributes:
        class_name: Of diffusers, or ``FittedScheduler`` (`shapefirst.guidance.fitted`).
        configuration: Its entries, as JSON.

    Raises:
        ShapefirstError: That is no name of a scheduler, or no JSON object.
    """

    class_name: str
    configuration: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z]\w{0,80}Scheduler", self.class_name):
            raise ShapefirstError(f"A solver is a class of schedulers, not {said(self.class_name)}.")
        try:
            entries = json.loads(self.configuration)
        except (ValueError, RecursionError):  # brackets within brackets without end
            entries = None
        if not isinstance(entries, dict):
            raise ShapefirstError(f"The configuration of a solver is a JSON object, not {said(self.configuration)}.")

    @classmethod
    def like(cls, scheduler: Any) -> Solver:
        """That of a scheduler of diffusers."""
        return cls.of(type(scheduler).__name__, scheduler.config)

    @classmethod
    def of(cls, class_name: str, entries: Mapping[str, Any]) -> Solver:
        """With these entries, of which private ones are left out."""
        public = {name: value for name, value in entries.items() if not name.startswith("_")}
        return cls(class_name, json.dumps(public, sort_keys=True))

    @property
    def entries(self) -> dict[str, Any]:
        return dict(json.loads(self.configuration))

    @property
    def label(self) -> str:
        """For people, such as "DPMSolverMultistep, Karras' spacing"."""
        name = self.class_name.removesuffix("Scheduler").removesuffix("Discrete")
        return name + (", Karras' spacing" if self.entries.get("use_karras_sigmas") else "")


def config_of(scheduler: Any) -> Mapping[str, Any]:
    """Its configuration, if it has one."""
    found = getattr(scheduler, "config", None)
    return found if isinstance(found, Mapping) else {}


def is_flow(config: Any) -> bool:
    """Whether a scheduler's configuration is that of a model trained by flow matching (Stable Diffusion 3, Flux)."""
    name = str(config.get("_class_name", ""))  # which a scheduler made by hand has not got
    own = name.startswith("FlowMatch") or (not name and "shift" in config and "beta_start" not in config)
    return own or bool(config.get("use_flow_sigmas"))


def is_of_first_order(class_name: str, config: Any) -> bool:
    """Whether a scheduler goes from time to time along what the denoiser says there: DDIM and Euler, of a model that
    predicts the noise, or v, and Euler along a flow."""
    predicts = config.get("prediction_type") in ("epsilon", "v_prediction")
    return class_name in _FIRST_ORDER_OF_FLOWS or (class_name in _FIRST_ORDER and predicts)


def shift_of(config: Any, noise: Sequence[float] | None = None) -> float:
    """How much the times of a flow are shifted towards the most noise: how many times as far as the first half of its
    steps the second half goes.

    Where the noise at each step is not known, it is what the scheduler's configuration says; and where that is up to
    the picture's size (Flux, Qwen-Image), about a megapixel's.
    """
    if noise is not None and len(noise) > 1:
        first, half = noise[0], noise[len(noise) // 2]
        return half / (first - half) if half < first else math.inf
    if config.get("use_dynamic_shifting"):
        return DYNAMIC_SHIFT
    return float(config.get("flow_shift" if config.get("use_flow_sigmas") else "shift") or 1.0)
