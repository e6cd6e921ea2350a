"""C1: what makes the shape come first? The model beside one whose noise drowned no frequency before another.

Falck et al. 2025 (arXiv 2505.11278): that low frequencies come first is a property of white noise, in which the high
ones, weak in every picture, drown first. The control is trained alike on noise with the spectrum of its latents
(`training.noise`), and starts from such noise. If white noise is the cause, the control has no such order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from shapefirst.findings.finding import DoesNotApply, Finding, Study, Summary, claim, subject_to
from shapefirst.findings.tables import cell, crossed, stacked
from shapefirst.measure.distances import distances_of
from shapefirst.measure.intervals import ANY, POSITIVE, SHARE, SIGNED, Rule, bootstrap, ratio_of_means, settled
from shapefirst.measure.shapes import f1
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts import Prompt
from shapefirst.sampling.loop import decode
from shapefirst.studies import dropping
from shapefirst.studies.bands import correlations, two_bands, without_mean
from shapefirst.studies.conditions import by_kind, picture
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.dropping import check_guidance, steps_at
from shapefirst.studies.f2_frequencies import CORRELATED
from shapefirst.studies.maps import EARLY, SIZE, shape_in, step_at
from shapefirst.studies.subject import Subject, part

#: The model itself settles its low frequencies a tenth of the run before the high ones, as F2 asks: else nothing is
#: there that the control could lack.
RULE_ORDER: Final = Rule("above", 0.1)
#: The control's lead is less than half of the model's.
RULE_VANISHES: Final = Rule("below", 0.5)
#: When a fifth of the steps is done, the shape that is seen in the model's preview is nearer to its last than in the
#: control's.
RULE_SHAPE: Final = Rule("above", 0.0)
#: The control's picture depends more on the text in the second half of the steps.
RULE_TEXT: Final = Rule("above", 0.0)
#: The control's pictures are at most 5 points of alignment (of 100) worse.
RULE_AS_GOOD: Final = Rule("above", -0.05)


@dataclass(frozen=True)
class _Course:
    """What n runs of a model show.

    Attributes:
        images: n.
        bands: (n, N, 2), correlation of each band of the predicted x_0 with the last.
        early: (n,), F1-score of the shape in the preview at `EARLY` with that in the image; nan where it is not known.
        late: (n, 2), L1 to the image with the text in half of the steps, and with none.
        alignment: (n,).
    """

    images: list[Image.Image]
    bands: np.ndarray
    early: np.ndarray
    late: np.ndarray
    alignment: np.ndarray

    @property
    def lead(self) -> np.ndarray:
        """(n,), the share of the steps by which the low band is final before the high one."""
        steps = self.bands.shape[1]
        low, high = (settled(self.bands[..., b], CORRELATED) / steps for b in range(2))
        return high - low


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Both models' runs, each with the text in all, in half and in none of the steps."""
    check_guidance(subject)
    if not subject.is_pocket:
        raise DoesNotApply("The shapes in its pictures are not known: it is for models of pocket's world.")
    control = subject.needed_control
    subject.meter.expect(2 * len(prompts) * _evaluations(subject))
    name = subject.scored_by("judge")
    ours, other = (_follow(one, prompts, name) for one in (subject, control))
    order = claim(
        "The model settles low frequencies before high ones.",
        paper="the low band is recovered first (F2)",
        quantity="share of the steps by which the low band of predicted x_0 is final before the high band",
        found=bootstrap(ours.lead, within=SIGNED),
        rule=RULE_ORDER,
    )
    why = "The model has no such order that could vanish."
    vanishes = claim(
        "With equal signal-to-noise in all frequencies the order vanishes.",
        paper="not asked; it vanishes (Falck et al. 2025)",
        quantity="the control's lead of the low band over the model's",
        found=bootstrap(np.stack([other.lead, ours.lead], 1), ratio_of_means, within=ANY),
        rule=RULE_VANISHES,
        if_not="What the denoiser finds easy may come first whatever the noise: an order of learning, not of drowning.",
    )
    shape = claim(
        f"And with it the early shape: when {EARLY:.0%} of the steps are done, the control's preview has less of it.",
        paper="not asked",
        quantity="F1-score of the preview's shape with the image's: the model's minus the control's",
        found=bootstrap(ours.early - other.early, within=SIGNED),
        rule=RULE_SHAPE,
        if_not="An outline has high frequencies too, and may settle with the low ones all the same.",
    )
    text = claim(
        "And the text is needed for longer.",
        paper="not asked",
        quantity="L1 with the text in half of the steps over L1 without text: the control's minus the model's",
        found=bootstrap(np.concatenate([other.late, ours.late], 1), _difference_of_ratios, within=ANY),
        rule=RULE_TEXT,
        if_not="The text may decide before the picture shows it (F5), whatever shows first.",
    )
    as_good = claim(
        "The pictures stay as good.",
        paper="not asked; image quality is the same (Falck et al. 2025)",
        quantity=f"{subject.alignments[name].title}: the control's minus the model's",
        found=bootstrap(other.alignment - ours.alignment, within=subject.range_of(name).difference),
        rule=RULE_AS_GOOD,
        if_not="The same budget of training may be too little for a harder task: longer training would tell.",
    )
    models = {"model": ours, "control": other}
    return Finding(
        claims=(order, *(subject_to(order, one, why) for one in (vanishes, shape, text)), as_good),
        table=stacked(
            [
                crossed(
                    {"model": [which]},
                    subject.about(prompts),
                    lead=of.lead,
                    early_shape=of.early,
                    l1_half=of.late[:, 0],
                    l1_none=of.late[:, 1],
                    alignment=of.alignment,
                )
                for which, of in models.items()
            ]
        ),
        summaries=(
            Summary(
                ("", *models),
                (
                    (
                        "lead of the low band, share of the steps",
                        *(cell(of.lead, within=SIGNED) for of in models.values()),
                    ),
                    (
                        f"F1-score of the shape at {EARLY:.0%}",
                        *(cell(of.early, within=SHARE) for of in models.values()),
                    ),
                    (
                        "L1 with text in half, over none",
                        *(cell(of.late, ratio_of_means, within=POSITIVE) for of in models.values()),
                    ),
                    (
                        subject.alignments[name].title,
                        *(cell(of.alignment, within=subject.range_of(name)) for of in models.values()),
                    ),
                ),
                f"Model: {subject.name}. Control: {control.name}.",
            ),
            by_kind({f"lead, {which}": of.lead for which, of in models.items()}, prompts, within=SIGNED),
        ),
        charts=(
            curves(
                "bands",
                [
                    Panel(
                        range(subject.steps),
                        {"low frequencies": of.bands[..., 0], "high frequencies": of.bands[..., 1]},
                        {"title": f"The {which}", "xlabel": "step (0 = noisiest)", "ylabel": "correlation with x_0"},
                        level=CORRELATED,
                    )
                    for which, of in models.items()
                ],
                "How far each band of the predicted x_0 has come; mean and 95% band, "
                f"n = {len(prompts)} prompts. Dotted: where a band counts as final.",
                f"The low band is final {ours.lead.mean():.0%} of the run before the high band in the model, "
                f"{other.lead.mean():.0%} in the control.",
                share_y=True,
            ),
        ),
        pictures=(
            picture(
                "both", {which: of.images for which, of in models.items()}, [p.text for p in prompts], "Of one seed."
            ),
        ),
        method=f"{len(prompts)} prompts, one seed each, {subject.steps} steps, both models alike; the control starts "
        "from noise of its own spectrum. Both were trained by `shapefirst train-pocket` with the same world, "
        "autoencoder, text encoder and number of steps, on white noise and on noise of the latents' own spectrum "
        "(`--model pocket-equal-snr`). Bands, and when one is final: as in F2. Shape: as in F1, in previews of the "
        "predicted x_0.",
        evaluations=2 * _evaluations(subject),
    )


def _evaluations(subject: Subject) -> float:
    """Of an image with the text in all steps, in half of them, and in none."""
    steps, (half,) = subject.steps, steps_at([0.5], subject.steps)
    ends = [TextSchedule.until(k).evaluations(steps, subject.solver_order) for k in (0, half)]
    return subject.cost() + ends[0] + ends[1] - subject.cost(half)


def _follow(subject: Subject, prompts: Sequence[Prompt], alignment: str) -> _Course:
    (half,), early = steps_at([0.5], subject.steps), step_at(subject.steps, EARLY)
    embeddings, seeds = subject.encode(prompts), subject.seeds(len(prompts))
    images: list[Image.Image] = []
    with_half: list[Image.Image] = []
    without: list[Image.Image] = []
    bands, shapes = [], []
    for here in subject.batches(len(prompts)):
        mine, x0s, forks = part(embeddings, here), [], {}
        for step in subject.steps_of(mine, seeds[here]):
            x0s.append(step.x0.float().cpu())
            if step.index in (0, half):
                forks[step.index] = step
            last = step
        final = last.x_next.float().cpu()
        made = decode(subject.pipe, last.x_next)
        kept = without_mean(two_bands(*final.shape[-2:]))
        bands.append(np.stack([correlations(x0, final, kept).numpy()[..., 1:] for x0 in x0s], 1))
        previews = decode(subject.pipe, x0s[early].to(last.x_next))
        size = (SIZE, SIZE)
        shapes += [
            float(f1(shape_in(one, size), shape_in(image, size))) for one, image in zip(previews, made, strict=True)
        ]
        for k, into in ((half, with_half), (0, without)):
            *_, dropped = subject.steps_of(mine, seeds[here], schedule=TextSchedule.until(k), start=forks[k])
            into += decode(subject.pipe, dropped.x_next)
        images += made
    similarity = dropping.similarity_of(subject)
    late = np.stack([distances_of(made, images, similarity).l1 for made in (with_half, without)], 1)
    return _Course(
        images,
        np.concatenate(bands),
        np.array(shapes),
        late,
        np.asarray(subject.alignments[alignment].score(images, prompts)),
    )


def _difference_of_ratios(x: np.ndarray) -> float:
    """(n, 4) -> the ratio of the first two columns' means less that of the last two's."""
    return ratio_of_means(x[:, :2]) - ratio_of_means(x[:, 2:])


STUDY: Final = Study(
    name="c1",
    title="The cause of the shape first",
    question="Do low frequencies still come first where noise drowns no frequency before another?",
    paper="Not asked. By Falck et al. (2025) the order comes from white noise, and vanishes without it.",
    needs="prompts",
    count=64,
    cost=420,
    judged=True,
    controlled=True,
    run=run,
)
