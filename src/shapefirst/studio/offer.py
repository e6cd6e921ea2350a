"""What the studio was started with. A visitor chooses among these by name and can say no path of the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from shapefirst.errors import ShapefirstError
from shapefirst.files import content_of
from shapefirst.guidance.timeline import steps_ahead
from shapefirst.models import OWN_SAMPLER, default_guidance_scale, is_pocket, locate, usual_sampler
from shapefirst.models.catalogue import check_sampler
from shapefirst.models.samplers import sampler_of
from shapefirst.policies.auto import Policy
from shapefirst.policies.file import PolicyFile, read_policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.words import parse_policy
from shapefirst.studio.settings import StudioSettings

__all__ = ["Offer", "make_offer"]

PAGES: Final = ("report.html", "report/report.html")  # of studies, of sweeps


@dataclass(frozen=True)
class Offer:
    """Models, tuned policies and reports by the names that they were given on the command line.

    Attributes:
        models: Each with the sampler that it is usually sampled with: but for pocket its own.
        policies: What `shapefirst tune` wrote.
        reports: Pages of `shapefirst study` and `sweep report`.
        device: As of `load`.
        dtype: As of `load`.
    """

    models: Mapping[str, str]
    policies: Mapping[str, PolicyFile] = field(default_factory=dict)
    reports: Mapping[str, Path] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None

    def completed(self, settings: StudioSettings) -> StudioSettings:
        """The settings with the model's usual sampler and guidance scale where they leave them open.

        Raises:
            ShapefirstError: A model that is not on offer, an unknown sampler, or a policy that does not fit.
        """
        if settings.model not in self.models:
            raise ShapefirstError(
                f"There is no model {settings.model!r} in this studio, which was started with "
                f"{', '.join(self.models)}: start it with --model for another one."
            )
        sampler = settings.sampler or self.models[settings.model]
        check_sampler(sampler)
        scale = default_guidance_scale(settings.model) if settings.guidance is None else settings.guidance
        self.policy(settings)
        return replace(settings, sampler=sampler, guidance=scale)

    def policy(self, settings: StudioSettings) -> Policy:
        """What the settings' words name; a file is never looked for.

        Raises:
            ShapefirstError: They name none, or one that does not fit the number of steps.
        """
        tuned = self.policies.get(settings.policy.strip())
        policy = parse_policy(settings.policy) if tuned is None else tuned.schedule
        if isinstance(policy, TextSchedule) and policy.own_steps is None:
            policy.check(settings.steps)
        return policy

    def shown_policy(self, settings: StudioSettings) -> Policy:
        """The same as it holds with the settings' sampler: where its steps lie.

        Raises:
            ShapefirstError: As `policy`, or the sampler cannot sample the model.
        """
        policy, model = self.policy(settings), settings.model
        place = locate(model) if model in self.models else None
        if place is None:
            return policy
        solver = sampler_of(settings.sampler or self.models[model], place)
        return policy.in_run(solver, *steps_ahead(solver, settings.steps))

    def report(self, name: str) -> bytes | None:
        """The page of a report as it is now, or None where there is no such report."""
        return content_of(self.reports[name]) if name in self.reports else None


def make_offer(
    models: Sequence[str],
    policies: Sequence[str] = (),
    reports: Sequence[str] = (),
    device: str | None = None,
    dtype: str | None = None,
) -> Offer:
    """What these words of a command line name; pocket is among the models in any case.

    Raises:
        ShapefirstError: A model that is not on this disk, a file that is no policy, a folder without a report.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys((*models, "pocket")):
        place = locate(name)
        if place is None:
            raise ShapefirstError(f"The model {name!r} is not on this disk.")
        found[name] = usual_sampler(place) if is_pocket(name) else OWN_SAMPLER
    return Offer(
        found,
        {words: read_policy(Path(words)) for words in policies},
        {words: _page(Path(words)) for words in reports},
        device,
        dtype,
    )


def _page(folder: Path) -> Path:
    for page in PAGES:
        if (folder / page).is_file():
            return folder / page
    raise ShapefirstError(
        f"There is no report in {str(folder)!r}: name a folder that `shapefirst study` or `sweep report` wrote to."
    )
