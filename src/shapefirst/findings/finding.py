"""What a study asks and what it found: plain data, no torch, so that a report needs nothing else.

Study.run(subject, prompts or pairs) -> Finding = claims with their tests + tidy table + charts + pictures
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from shapefirst.errors import ShapefirstError
from shapefirst.measure.intervals import FEWEST, Interval, Rule, Verdict
from shapefirst.signatures import guarded

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Chart",
    "Claim",
    "DoesNotApply",
    "Finding",
    "Picture",
    "Question",
    "Study",
    "Summary",
    "claim",
    "subject_to",
]


#: How ``paper`` begins where the paper makes no such claim.
_OWN: Final = ("not asked", "taken for granted")


class DoesNotApply(ShapefirstError):
    """The study has no meaning for this model; the sentence says why (a text encoder without [SOS], say)."""


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper put to the test.

    Attributes:
        statement: The claim, as something that can be true or false.
        paper: What the paper reports for it, in a few words.
        quantity: What ``found`` is, with its unit.
        found: Estimate, interval and number of prompts.
        rule: Decided beforehand.
        verdict: By the rule.
        hypothesis: Where it does not replicate: why that may be, and the run that would test it; else "".
    """

    statement: str
    paper: str
    quantity: str
    found: Interval
    rule: Rule
    verdict: Verdict
    hypothesis: str = ""

    @property
    def is_own(self) -> bool:
        """Whether the claim is one of this program's, a control or a question that the paper does not put."""
        return self.paper.lower().startswith(_OWN)

    @property
    def reason(self) -> str:
        """Why it is inconclusive, in a sentence; "" where it is not."""
        if self.verdict != "inconclusive":
            return ""
        return self.rule.why_not(self.found) or "The study's control does not replicate."


@guarded
def claim(statement: str, *, paper: str, quantity: str, found: Interval, rule: Rule, if_not: str = "") -> Claim:
    """The claim with its verdict. ``if_not`` becomes its hypothesis unless it replicates."""
    verdict = rule.verdict(found)
    return Claim(statement, paper, quantity, found, rule, verdict, "" if verdict == "replicates" else if_not)


@guarded
def subject_to(control: Claim, found: Claim, why: str) -> Claim:
    """The claim ``found``; inconclusive, for the reason ``why``, unless its control replicates."""
    if control.verdict == "replicates":
        return found
    return replace(found, verdict="inconclusive", hypothesis=f"{why} {found.hypothesis}".strip())


@dataclass(frozen=True)
class Summary:
    """A small table to read: cells are formatted by the study, the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Chart:
    """A plot: SVG with units on its axes and n in its caption; ``alt`` says in words what is to be seen."""

    name: str
    svg: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Picture:
    """A sheet of sample images, attention overlays or step previews."""

    name: str
    image: Image.Image
    caption: str
    alt: str


@dataclass(frozen=True)
class Finding:
    """What a run of a study found.

    Attributes:
        claims: At least one.
        table: The tidy table, column -> values of equal number: one row for each thing measured.
        summaries: What of it a person reads.
        charts: Plots.
        pictures: Images.
        method: How it was measured, a few sentences; what the paper leaves open and was chosen here included.
        evaluations: Denoiser evaluations per image, as done.
        evaluations_apart: What separate runs without shared prefixes would have taken, where there are such; else 0.
    """

    claims: tuple[Claim, ...]
    table: Mapping[str, Sequence[Any]]
    summaries: tuple[Summary, ...] = ()
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Picture, ...] = ()
    method: str = ""
    evaluations: float = 0
    evaluations_apart: float = 0


@dataclass(frozen=True)
class Question:
    """What a finding answers, as the report tells it.

    Attributes:
        name: Its id in the paper's digest, in lower case: "f4".
        title: A few words.
        question: One sentence.
        paper: What the paper found, one sentence.
        needs: What it is put to: "prompts" (``Prompt``) or "pairs" (``Pair``, source and target).
    """

    name: str
    title: str
    question: str
    paper: str
    needs: Literal["prompts", "pairs"]


@dataclass(frozen=True)
class Study(Question):
    """A question with the way to put it to a model.

    Attributes:
        count: Number of prompts or pairs by default.
        cost: About what ``count`` of them take, in images of 50 guided steps: its part of the progress bar, no more.
        run: (subject, prompts or pairs) -> Finding; raises ``DoesNotApply``.
        controlled: Whether it compares the model with another one, its control.
        judged: Whether its verdicts go by how well images show their prompts, or by features of them: by a CLIP.
        pictured: Whether it gives the model a picture beside the prompt, and so runs on models that insist on one.
        quick: Number with ``--quick``: by default the fewest that a verdict takes.
    """

    count: int
    run: Callable[[Any, Sequence[Any]], Finding] = field(repr=False)
    cost: float = 100
    pictured: bool = False
    judged: bool = False
    controlled: bool = False
    quick: int = FEWEST
