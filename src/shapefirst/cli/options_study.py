"""The options of `shapefirst study`, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shapefirst import __version__
from shapefirst.checks import check_number, check_seed
from shapefirst.cli import terminal
from shapefirst.cli.loading import obtained
from shapefirst.cli.options import (
    Device,
    Dtype,
    GuidanceScale,
    Models,
    Sampler,
    Scores,
    named_models,
    prompts_and_count,
)
from shapefirst.cli.options_generate import LoadOptions, Loras, Offload
from shapefirst.errors import ShapefirstError

if TYPE_CHECKING:
    from shapefirst.findings.finding import Study
    from shapefirst.findings.storage import StudySetting

__all__ = ["STUDIES_OUT", "StudyOptions"]

STUDIES_OUT: Final = Path("out/studies")
STEPS: Final = 50
QUICK_STEPS: Final = 16
FEWEST_STEPS: Final = 10  # the studies look at tenths of a run
MOST_IMAGES: Final = 10**6  # image i of a study has the seed of its first plus i


@dataclass(frozen=True)
class StudyOptions:
    """What is studied, how, and where the results go."""

    models: Models = None
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Prompts, one a line, of which pairs are made; or a number, as --count.",
            show_default="pocket's words",
        ),
    ] = None
    prompts_file: Annotated[Path | None, typer.Option(metavar="FILE", help="As --prompts.", hidden=True)] = None
    pairs_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs of prompts, two a line with a tab between.")
    ] = None
    control: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Another model to compare with, for c1 and c2, as of `train-pocket`."),
    ] = None
    study: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A study of your own: a Python file with a STUDY.")
    ] = None
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A picture to give to the model beside the prompt, for a6; several in turn."),
    ] = None
    ip_adapter: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An IP-Adapter to put on the model for a6; beside its image_encoder."),
    ] = None
    count: Annotated[
        int | None,
        typer.Option(metavar="N", help="Prompts or pairs of every study.", show_default="each study's own number"),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of the choice of prompts and of the first image.")] = 0
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Denoising steps.", show_default=f"{STEPS}, or {QUICK_STEPS} with --quick"),
    ] = None
    sampler: Sampler = None
    guidance_scale: GuidanceScale = None
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the results and report.html go.")] = STUDIES_OUT
    quick: Annotated[bool, typer.Option("--quick", help="A few prompts and steps: to see it work.")] = False
    force: Annotated[
        bool, typer.Option("--force", help="Replace results of another model, seed or number of prompts.")
    ] = False
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="A CLIP on the hub or the disk to score images by, or none.",
            show_default="pocket's own; of other models OpenAI's ViT-B/16 if it is on the disk",
        ),
    ] = None
    vqa: Annotated[
        str | None, typer.Option(metavar="ID", help="A visual-question-answering model to score images by.")
    ] = None
    vlm: Annotated[str | None, typer.Option(metavar="ID", help="A vision-language model to score images by.")] = None
    score: Scores = None
    device: Device = None
    dtype: Dtype = None
    offload: Offload = None
    lora: Loras = None
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images at a time.", show_default="32 with pocket, else 4")
    ] = None

    @property
    def model(self) -> str:
        """The one that is studied; of several, the first."""
        return self.models[0] if self.models else "pocket"

    def each(self) -> list[StudyOptions]:
        """Those of each model by itself; of several, each has a folder of its name in ``out``.

        Raises:
            ShapefirstError: A model is named twice, or ``out`` holds what a run of one model left.
        """
        from shapefirst.files import Names, slug
        from shapefirst.findings.storage import FACTS

        if not self.models or len(self.models) == 1:
            return [self]
        if again := next((name for name in self.models if self.models.count(name) > 1), None):
            raise ShapefirstError(f"--model {again} is given twice: name each model once.")
        if any(self.out.glob(f"*/{FACTS}")):
            raise ShapefirstError(
                f"{str(self.out)!r} holds the findings of a run of one model: choose another --out for several."
            )
        names = Names()
        return [replace(self, models=[name], out=self.out / names.unique(slug(name))) for name in self.models]

    @property
    def given(self) -> tuple[Path | None, int | None]:
        """The file of prompts, and how many."""
        file, count = prompts_and_count(self.prompts, self.count)
        if file is not None and self.prompts_file is not None:
            raise ShapefirstError("--prompts and --prompts-file are the same: give one file.")
        return file or self.prompts_file, count

    @property
    def number_of_steps(self) -> int:
        return self.steps if self.steps is not None else QUICK_STEPS if self.quick else STEPS

    @property
    def scale(self) -> float:
        from shapefirst.models import default_guidance_scale

        return float(default_guidance_scale(self.model) if self.guidance_scale is None else self.guidance_scale)

    @property
    def loading(self) -> LoadOptions:
        """How the model under study is loaded."""
        return LoadOptions(self.device, self.dtype, self.offload, self.lora)

    @property
    def _added(self) -> list[Path]:
        """Files of weights that are put on the model."""
        from shapefirst.models.lora import loras_of

        adapters = [] if self.ip_adapter is None else [self.ip_adapter]
        return adapters + [file for file, _ in loras_of(self.lora or ())]

    @property
    def scorers(self) -> dict[str, str | None]:
        return {"clip": self.clip, "vqa": self.vqa, "vlm": self.vlm, **named_models(self.score)}

    def those_with_scores(self, studies: Sequence[Study]) -> tuple[StudyOptions, list[Study]]:
        """The studies that can run without a download that nobody asked for, and the options to run them with.

        Raises:
            ShapefirstError: There is none.
        """
        from shapefirst.measure.scores import CLIP, NO_CLIP, clip_at_hand

        if clip_at_hand(self.model, self.clip):
            return self, list(studies)
        rest, left_out = ([s for s in studies if s.judged is judged] for judged in (False, True))
        if left_out:
            absent = (
                "no CLIP is to be used"
                if self.clip
                else f"{CLIP} is not on this disk, and nothing is downloaded unasked"
            )
            sentence = (
                f"{', '.join(s.name for s in left_out)} go by how well images show their prompts, and {absent}: add "
                f"--clip {CLIP} to download it (0.6 GB), or --clip DIR for one that you have."
            )
            if not rest:
                raise ShapefirstError(sentence)
            terminal.warning(f"left out: {sentence}")
        return replace(self, clip=NO_CLIP), rest

    def check(self) -> None:
        """Raise ShapefirstError unless the numbers are in range, the packages there and the folder writable."""
        from shapefirst.files import check_writable
        from shapefirst.models import sampler_info
        from shapefirst.models.adapters import check_ip_adapter

        if (count := self.given[1]) is not None:
            why = "an interval over prompts needs more than one"
            option = "--prompts" if self.count is None else "--count"
            check_number(count, "pairs", option, least=2, why=why)
        check_seed(self.seed, MOST_IMAGES)
        why = "the studies look at tenths of a run, which fewer steps have not got"
        check_number(self.number_of_steps, "steps", "--steps", least=FEWEST_STEPS, why=why)
        check_number(self.scale, "guidance scale", "--guidance-scale")
        if self.scale <= 1:
            raise ShapefirstError(
                f"--guidance-scale must be above 1, not {self.scale:g}: without guidance the text has one branch."
            )
        if self.sampler is not None:
            sampler_info(self.sampler)
        if self.ip_adapter is not None:
            if self.offload is not None:
                raise ShapefirstError("--ip-adapter does not go with --offload: leave one of them out.")
            check_ip_adapter(self.ip_adapter)
        if self.batch_size is not None:
            check_number(self.batch_size, "batch size", "--batch-size")
        self.loading.check()
        check_writable(self.out)

    def studies(self, names: Sequence[str]) -> list[Study]:
        """Those of these names, and those of files."""
        from shapefirst.studies import study_named
        from shapefirst.studies.own import study_in

        found = [*(study_named(name) for name in names), *map(study_in, self.study or ())]
        names_of_all = [one.name for one in found]
        if again := next((name for name in names_of_all if names_of_all.count(name) > 1), None):
            raise ShapefirstError(f"Two of the studies are named {again!r}: give each a name of its own.")
        if self.control is None and (some := [one.name for one in found if one.controlled]) and len(some) == len(found):
            raise ShapefirstError(
                f"{' and '.join(some)} cannot do without another model to compare with: name it by --control, such as "
                "what `shapefirst train-pocket --model pocket-equal-snr` made for c1, pocket-plain-padding for c2."
            )
        return found

    def _beside(self) -> str:
        """The control, and its weights."""
        from shapefirst.models.fingerprint import fingerprint

        if self.control is None:
            return ""
        return f"control {self.control} ({fingerprint(obtained(self.control, self.dtype, self.device), {})})"

    def setting(self) -> StudySetting:
        """What all results have in common; the model is downloaded if it is not there."""
        from shapefirst.findings.storage import StudySetting
        from shapefirst.measure.scores import CLIP, NO_CLIP
        from shapefirst.models import is_pocket, usual_sampler
        from shapefirst.models.fingerprint import fingerprint
        from shapefirst.models.machine import hardware

        place = obtained(self.model, self.dtype, self.device)
        usual = () if is_pocket(self.model) else (CLIP,)  # which is the usual one by its name, too
        clip = None if self.clip in (NO_CLIP, *usual) else self.clip
        return StudySetting(
            model=self.model,
            fingerprint=fingerprint(
                place, {**self.scorers, "clip": clip, "dtype": self.dtype, "lora": self.loading.loras}, self._added
            ),
            version=__version__,
            seed=self.seed,
            steps=self.number_of_steps,
            guidance_scale=self.scale,
            sampler=self.sampler or usual_sampler(place),
            quick=self.quick,
            count=0,
            prompts="",
            words=self._beside(),
            command="",
            machine=hardware(self.device),
            seconds=0.0,
        )
