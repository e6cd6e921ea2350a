"""A tuned policy on the disk: a small JSON that says for which model, sampler and number of steps it was made.

It holds a digest of itself, so that a change by hand is noticed: the figures in it would no longer be true.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from shapefirst.checks import Strict, check_number, fitted, json_of
from shapefirst.errors import ShapefirstError, shortened
from shapefirst.files import content_of, save_text
from shapefirst.policies.schedule import Kept, TextSchedule, check_kept
from shapefirst.policies.solver import Solver
from shapefirst.signatures import guarded

__all__ = ["PolicyFile", "model_digest", "read_policy", "sampler_digest", "write_policy"]

FORMAT: Final = 2
VALUES: Final = 64  # of each weight that enters a model's digest
Whole: TypeAlias = Annotated[int, Strict()]


@dataclass(frozen=True)
class PolicyFile:
    """What the JSON holds, besides its format and digest.

    Attributes:
        model: Its name or path, for people.
        model_digest: `model_digest` of its denoiser, with the LoRAs on it.
        sampler: The scheduler's class.
        sampler_digest: `sampler_digest` of the scheduler.
        guidance_scale: w that the policy was tuned with.
        steps: N, the number of steps to sample with.
        guided: The guided steps.
        keep: As in `TextSchedule`.
        order: As in `TextSchedule`.
        versions: Of shapefirst, diffusers and torch.
        measured: What `tune` measured on prompts that it did not choose by.
        goal: What the policy was chosen for: to "keep" the picture of a run of the sampler, or for the "best" one.
        solver: As in `TextSchedule`.
        lora: The LoRAs that were on the model, with their strengths, for people.

    Raises:
        ShapefirstError: A scale without guidance, steps that there are not, or what `TextSchedule` refuses.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "protected_namespaces": ()}

    model: str
    model_digest: str
    sampler: str
    sampler_digest: str
    guidance_scale: Annotated[float, Strict()]
    steps: Whole
    guided: tuple[Whole, ...]
    keep: Kept
    order: Whole | None
    versions: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    goal: Literal["keep", "best"] = "keep"
    solver: Solver | None = None
    lora: str = ""

    def __post_init__(self) -> None:
        for name in ("model_digest", "sampler", "sampler_digest"):
            if not re.fullmatch(r"\w{1,100}", value := getattr(self, name)):
                raise ShapefirstError(f"The {name} of a policy is a word, not {shortened(value)!r}.")
        if not 1 < self.guidance_scale < math.inf:
            raise ShapefirstError(f"The guidance scale of a policy must be above 1, not {self.guidance_scale:g}.")
        check_number(self.steps, "steps", "The number of steps of a policy")
        check_kept(self.keep, self.order)  # also where a solver has no use for them
        if self.goal == "keep" and self.full_steps < self.steps:
            raise ShapefirstError(
                f"A policy that keeps the picture of a run of {self.full_steps} steps takes no more, not {self.steps}."
            )
        if any(after <= before for before, after in pairwise(self.guided)):
            raise ShapefirstError("The guided steps of a policy must be in order, each of them once.")
        self.schedule.check(self.steps)

    @property
    def schedule(self) -> TextSchedule:
        """The policy, for runs of `steps` steps only."""
        if self.solver is not None and len(self.guided) == self.steps:
            placed = TextSchedule.solved(self.solver, self.steps)
        else:
            placed = TextSchedule.at(self.guided, keep=self.keep, order=self.order)
        return replace(
            placed,
            num_steps=self.steps,
            solver=self.solver,
            stands_for=self.full_steps if self.solver or self.full_steps > self.steps else None,
            guidance_scale=self.guidance_scale,
        )

    @property
    def call_arguments(self) -> dict[str, Any]:
        """What a pipeline is called with under the policy, for those who do not leave that to `guide`."""
        return {"num_inference_steps": self.steps, "guidance_scale": self.guidance_scale}

    @property
    def full_steps(self) -> int:
        """N of the run in whose place the policy stands."""
        steps = self.measured.get("full guidance at steps")
        return steps if type(steps) is int and steps >= 1 else self.steps

    @property
    def promise(self) -> str:
        """What `tune` measured, as a sentence; "" where the file does not hold it."""
        try:
            l1, saved = (self.measured[name]["estimate"] for name in ("L1", "time saved"))
            steps, prompts = self.measured["full guidance at steps"], self.measured["prompts"]
            to = f"the run of {steps} steps" if self.goal == "keep" else "the converged picture"
            return (
                f"Measured on {prompts} prompts: L1 {l1:.4f} to {to}, {saved:.0%} of the time of {steps} steps saved."
            )
        except (KeyError, TypeError, ValueError):
            return ""

    def policy_for(self, pipe: Any) -> TextSchedule:
        """The policy.

        Raises:
            ShapefirstError: The pipeline's model or sampler is not the one that the policy was tuned on.
        """
        again = "run `shapefirst tune` for this one."
        if model_digest(pipe) != self.model_digest:
            on = f" with the LoRA {shortened(self.lora)!r}" if self.lora else " without a LoRA" * _has_lora(pipe)
            raise ShapefirstError(f"The policy was tuned on another model, {shortened(self.model)!r}{on}: {again}")
        if self.goal == "best":  # whatever it samples with
            return self.schedule
        name = type(pipe.scheduler).__name__
        if name != self.sampler:
            raise ShapefirstError(f"The policy was tuned with the sampler {self.sampler}, not {name}: {again}")
        if not self.samples_as(pipe.scheduler):
            raise ShapefirstError(f"The policy was tuned with other settings of the sampler {name}: {again}")
        return self.schedule

    def samples_as(self, scheduler: Any) -> bool:
        """Whether the policy was tuned with a scheduler like this one."""
        return (type(scheduler).__name__, sampler_digest(scheduler)) == (self.sampler, self.sampler_digest)


def model_digest(pipe: Any) -> str:
    """Twelve hex digits of a pipeline's denoiser: of the shapes of its weights and the signs of some of their values.

    Signs are the same in every precision. A LoRA that is on it tells it from others, with its strength; one that is
    switched off does not.
    """
    from shapefirst.families.layout import denoiser_of

    denoiser, seen = denoiser_of(pipe), hashlib.sha256()
    layers, loras = _lora_layers(denoiser), dict[str, Any]()
    for name, weight in denoiser.named_parameters():
        signs = f"{tuple(weight.shape)}".encode() + _signs(denoiser, name, weight)
        inside = next((layer for layer in layers if name.startswith(f"{layer}.")), None)
        if inside is None or name.startswith(f"{inside}.base_layer."):
            seen.update(name.replace(".base_layer.", ".").encode() + signs)
            continue
        parts = name.removeprefix(inside).split(".")
        for adapter, strength in layers[inside].items():
            if strength and adapter in parts:
                where = f"{inside}{'.'.join(part for part in parts if part != adapter)} {strength:.6g}"
                loras.setdefault(adapter, hashlib.sha256()).update(where.encode() + signs)
    for digest in sorted(one.digest() for one in loras.values()):  # whatever they are called, and in whatever order
        seen.update(digest)
    return seen.hexdigest()[:12]


def _lora_layers(denoiser: Any) -> dict[str, dict[str, float]]:
    """The layers that peft has put LoRAs on: name -> each LoRA that is switched on, with its strength."""
    found = {}
    for name, module in denoiser.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "active_adapters"):
            on = () if module.disable_adapters else module.active_adapters
            found[name] = {adapter: float(module.scaling.get(adapter, 1.0)) for adapter in on}
    return found


def _has_lora(pipe: Any) -> bool:
    from shapefirst.families.layout import denoiser_of

    return any(any(on.values()) for on in _lora_layers(denoiser_of(pipe)).values())


def _signs(denoiser: Any, name: str, weight: Any) -> bytes:
    """Of the first values of a weight, also where accelerate keeps them elsewhere until they are needed."""
    import torch

    if weight.is_meta:
        layer, _, own = name.rpartition(".")
        weight = denoiser.get_submodule(layer)._hf_hook.weights_map[own]
    return bytes(torch.signbit(weight.detach().flatten()[:VALUES]).cpu().numpy().tobytes())


def sampler_digest(scheduler: Any) -> str:
    """Twelve hex digits of a scheduler's settings: not of those of other classes, which from_config() keeps, too."""
    takes = signature(type(scheduler)).parameters
    public = {name: repr(value) for name, value in sorted(scheduler.config.items()) if name in takes}
    return hashlib.sha256(json.dumps(public).encode()).hexdigest()[:12]


def write_policy(policy: PolicyFile, path: Path) -> None:
    """Write the JSON, whole or not at all."""
    content = {"shapefirst policy": FORMAT, **asdict(policy)}
    save_text(json.dumps({**content, "digest": _digest(content)}, indent=1) + "\n", path)


@guarded
def read_policy(path: str | Path) -> PolicyFile:
    """What `write_policy` wrote.

    Raises:
        ShapefirstError: There is no such file, it is no policy, of another format, or was changed.
    """
    what = f"The policy {str(path)!r}"
    try:
        content = json_of(content_of(Path(path)))
    except FileNotFoundError:
        raise ShapefirstError(f"There is no policy file {str(path)!r}: `shapefirst tune` writes one.") from None
    except OSError as error:
        raise ShapefirstError(f"{what} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ShapefirstError(f"{what} cannot be read ({error}): write it anew with `shapefirst tune`.") from error
    if not isinstance(content, dict) or "shapefirst policy" not in content:
        raise ShapefirstError(f"{what} is not one that `shapefirst tune` wrote.")
    if content["shapefirst policy"] != FORMAT:
        raise ShapefirstError(
            f"{what} has the format {shortened(repr(content['shapefirst policy']))} of another version of shapefirst, "
            f"which reads {FORMAT}: write it anew with `shapefirst tune`."
        )
    digest = content.pop("digest", None)
    if digest != _digest(content):
        raise ShapefirstError(
            f"{what} was changed after `shapefirst tune` wrote it, so its figures are not true: write it anew, or say "
            "what you want as a policy, such as steps:0-4+7+11."
        )
    del content["shapefirst policy"]
    try:
        return fitted(PolicyFile, content, "")
    except ShapefirstError as error:
        raise ShapefirstError(f"{what} is none: {error}") from error


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
