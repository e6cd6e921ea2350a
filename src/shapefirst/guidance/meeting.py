"""How a pipeline would be met, told from its class and those of its parts, before any weight of it is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shapefirst.families import FAMILIES, UNKNOWN, Family, family_of_class
from shapefirst.families.family import Way
from shapefirst.families.layout import denoisers_among, has_guider, networks_of_class, without_denoiser
from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.words import EXAMPLES, parse_policy

__all__ = ["MODULAR", "WAYS", "WHOLE", "Meeting", "follows", "meeting_of"]

#: Way -> what it is, for people.
WAYS: Final[Mapping[Way, str]] = {
    "one batch": "a call of the denoiser has the rows of every branch",
    "two calls": "the denoiser is called once for each branch",
    "whole calls": "a call of the denoiser is evaluated as it is, or all that it would give is extrapolated",
}


#: Classes of Modular Diffusers whose blocks the tests run, with a `Guider` and within `guide`.
MODULAR: Final = (
    "StableDiffusionXLModularPipeline",
    "StableDiffusion3ModularPipeline",
    "Flux2KleinBaseModularPipeline",
    "QwenImageModularPipeline",
    "WanModularPipeline",
    "Wan22ModularPipeline",
    "HeliosModularPipeline",
    "ZImageModularPipeline",
)


@dataclass(frozen=True)
class Meeting:
    """How the pipelines of a class are met.

    Attributes:
        name: The class's.
        way: How they are met where they are guided.
        branches: What a guided step evaluates, in the order of the batch's rows or of the calls; none if not known.
        policies: Those of `policies.words.EXAMPLES` that can be followed, beside full guidance.
        denoisers: The names of the parts that are skipped.
        beside: Those that are skipped with them, and counted apart.
        others: Those of all other networks, which run as ever.
        has_guider: Whether it is a modular pipeline that has a guider, in whose place `Guider` can stand.
        is_tested: Whether the class is in the matrix of the tests, or among `MODULAR`.
        refused: Why no policy can be followed, in a sentence, if so.
    """

    name: str
    way: Way
    branches: tuple[str, ...]
    policies: tuple[str, ...]
    denoisers: tuple[str, ...]
    beside: tuple[str, ...]
    others: tuple[str, ...]
    has_guider: bool
    is_tested: bool
    refused: str | None


def meeting_of(pipeline_class: Any, networks: Mapping[str, type] | None = None) -> Meeting:
    """How a class of pipelines is met.

    Args:
        pipeline_class: Of diffusers, or derived from one of it.
        networks: The networks of one such pipeline, name -> class; by default those that the class can have.
    """
    name, family = pipeline_class.__name__, family_of_class(pipeline_class)
    networks = networks_of_class(pipeline_class) if networks is None else networks
    denoisers = denoisers_among(family, networks)
    beside = tuple(part for part in family.beside if part in networks)
    refused = None if denoisers else without_denoiser(name)
    return Meeting(
        name=name,
        way=family.way,
        branches=() if family.way == "whole calls" else family.branches,
        policies=_followed(family),
        denoisers=denoisers,
        beside=beside,
        others=tuple(part for part in networks if part not in (*denoisers, *beside)),
        has_guider=has_guider(pipeline_class),
        is_tested=name in FAMILIES or name in MODULAR,
        refused=refused if family.refused is None else f"{name} {family.refused}",
    )


def follows(family: Family, policy: Policy) -> bool:
    """Whether a policy can be followed on pipelines of a family: where no branch is known, none can be dropped."""
    return family.way != "whole calls" or policy.keep == "neither" or policy == TextSchedule.always()


def _followed(family: Family) -> tuple[str, ...]:
    policies = {words: parse_policy(words) for words in EXAMPLES}
    return tuple(w for w, policy in policies.items() if policy != TextSchedule.always() and follows(family, policy))


#: Those of `policies.words.EXAMPLES` that skip whole evaluations, so that no branch needs to be known, or to be there.
WHOLE: Final = _followed(UNKNOWN)
