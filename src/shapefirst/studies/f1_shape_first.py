"""F1: when is the shape fixed? The noun's attention map over the steps, against the shape that it ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from shapefirst.drawing.overlays import overlay
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.findings.finding import Chart, Claim, Finding, Picture, Study, Summary, claim, subject_to
from shapefirst.findings.tables import crossed, shown, stacked
from shapefirst.measure.intervals import (
    LEAST,
    POSITIVE,
    SHARE,
    SIGNED,
    Interval,
    Range,
    Rule,
    bootstrap,
    measured,
    ratio_of_means,
)
from shapefirst.measure.shapes import Mask, binarise, f1
from shapefirst.prompts import Prompt
from shapefirst.studies.conditions import by_kind, estimates
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.maps import (
    EARLY,
    ROLES,
    SETTLED,
    Followed,
    Word,
    WordCourse,
    course,
    follow_words,
    followable,
    shape_in,
    shape_of,
    step_at,
)
from shapefirst.studies.subject import Subject

#: When a fifth of the steps is done, the agreement with the final shape is above 0.9 of what the last step reaches.
RULE: Final = Rule("above", 0.9)
#: The first fifth of the steps gains more agreement than the other four.
RULE_GAIN: Final = Rule("above", 0.0, LEAST)
#: Where the true shape is known: the noun's last map agrees with that of its own image more than with another prompt's.
#: Unless that replicates, the claims above are inconclusive: a map that misses the object can settle early too.
RULE_SHOWN: Final = Rule("above", 0.0)
#: Where the true shape is known: so does the shape in the clean image that is predicted when a fifth is done.
RULE_PREVIEW: Final = Rule("above", 0.9)
#: The steps in tables and pictures, as shares of all.
SHARES: Final = (0.0, 0.02, 0.1, EARLY, 0.5, 1.0)
SHOWN = 4


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Images with their words' maps recorded at each step."""
    subject.meter.expect(subject.cost() * len(prompts))
    words = followable(subject, prompts, subject.positions(prompts))
    few = len(prompts) if subject.is_pocket else min(SHOWN, len(prompts))
    embeddings, seeds = subject.encode(prompts), subject.seeds(len(prompts))
    followed = follow_words(subject, embeddings, seeds, words, previews=_steps(subject), shown=few)
    return shape_finding(subject, prompts, words, followed)


def shape_finding(
    subject: Subject, prompts: Sequence[Prompt], words: Sequence[Sequence[Word]], followed: Followed
) -> Finding:
    """What a recorded run says."""
    size = followed.maps[0][0].shape[1:]
    seen: list[Any] = (
        [shape_in(image, size) for image in followed.images] if subject.is_pocket else [None] * len(prompts)
    )
    courses = [_courses(*each) for each in zip(words, followed.maps, seen, strict=True)]
    last = np.stack([mine[0].last for mine in courses], 1)
    final = np.stack([mine[0].seen for mine in courses], 1) if subject.is_pocket else last
    shapes = np.stack([mine[0].masks[-1] for mine in courses] if not subject.is_pocket else seen)
    # The next prompt's shape: what masks have in common that have nothing to do with each other.
    other = np.stack([f1(mine[0].masks, shape) for mine, shape in zip(courses, np.roll(shapes, -1, 0), strict=True)])
    previews = {
        step: np.array([float(f1(shape_in(followed.previews[i, step], size), shape)) for i, shape in enumerate(shapes)])
        for step in (_steps(subject) if subject.is_pocket else ())
    }
    settled: dict[str, np.ndarray] = {
        role: np.array([_settled(subject, mine, role) for mine in courses]) for role in ROLES
    }
    by_role = {
        role: bootstrap(values, within=Range(0.0, 100.0))
        for role, values in settled.items()
        if len(measured(values)) > 1
    }
    early = final[0, :, step_at(subject.steps, EARLY)]
    return Finding(
        claims=_claims(subject, final, other, previews),
        table=_table(subject, prompts, courses, other),
        summaries=(
            _by_step(subject, last, final, other, previews),
            Summary(
                ("word", "prompts", "settled after, % of the steps"),
                tuple((role, str(found.n), shown(found, 0)) for role, found in by_role.items()),
                f"A word's map has settled once its IoU with the last step's stays at or above {SETTLED:g}.",
            ),
            by_kind(
                {
                    f"F1-score with {_final(subject)}, at {EARLY:.0%}": early,
                    "noun settled after, % of the steps": settled["noun"],
                },
                prompts,
                within={
                    f"F1-score with {_final(subject)}, at {EARLY:.0%}": SHARE,
                    "noun settled after, % of the steps": Range(0.0, 100.0),
                },
            ),
        ),
        charts=(_chart(subject, last, final, other), _chart_of_words(by_role, len(prompts))),
        pictures=(_sheet(subject, prompts, words, followed, courses, shapes),),
        method=_method(subject, prompts, size),
        evaluations=subject.cost(),
    )


def _steps(subject: Subject) -> list[int]:
    """Those of tables and pictures."""
    return sorted({step_at(subject.steps, share) for share in SHARES})


def _final(subject: Subject) -> str:
    return "the shape in the final image" if subject.is_pocket else "the last step's map"


def _claims(
    subject: Subject, final: np.ndarray, other: np.ndarray, previews: dict[int, np.ndarray]
) -> tuple[Claim, ...]:
    """The paper's two, and where the true shape is known the two that say what they are worth."""
    at, what = step_at(subject.steps, EARLY), _final(subject)
    scores = final[0]
    gain = (scores[:, at] - scores[:, 0]) - (scores[:, -1] - scores[:, at])
    claims = [
        claim(
            f"When {EARLY:.0%} of the steps are done, the noun's attention map has the final shape.",
            paper="the shape is there after the first few steps",
            quantity=f"F1-score with {what}, over that of the last step (1 = as good as at the end)",
            found=bootstrap(scores[:, [at, -1]], ratio_of_means, within=POSITIVE),
            rule=RULE,
            if_not="Maps may sharpen later than the picture, where a model's attention is spread over many tokens: "
            "the previews of the predicted clean image in the sheet show what the picture has by then.",
        ),
        claim(
            f"The shape is gained in the first {EARLY:.0%} of the steps rather than in the rest.",
            paper="later steps only fill in detail",
            quantity=f"F1-score with {what}: gain until {EARLY:.0%} minus gain afterwards",
            found=bootstrap(gain, within=SIGNED.difference),
            rule=RULE_GAIN,
            if_not="The first step's map may have the shape already, or too little of it may ever appear in the map: "
            "the curve tells, and F5 on the same model whether the first steps decide nonetheless.",
        ),
    ]
    if not subject.is_pocket:
        return tuple(claims)
    control = claim(
        "The noun's attention map shows the object.",
        paper="taken for granted: the map stands for the shape",
        quantity="F1-score of the last map with the shape in its own image minus that with another prompt's",
        found=bootstrap(scores[:, -1] - other[:, -1], within=SIGNED),
        rule=RULE_SHOWN,
        if_not="In a small model a word may be attended to around its object rather than on it, or alike everywhere: "
        "the sheet tells which. `shapefirst study f1 --model sd15` draws the same sheet for the paper's own model.",
    )
    why = "The map is not shown to follow the object here (see below): its course says little of the shape."
    claims = [*(subject_to(control, one, why) for one in claims), control]
    if previews:
        claims.append(
            claim(
                f"When {EARLY:.0%} of the steps are done, the predicted clean image has the final shape.",
                paper="the shape is there after the first few steps",
                quantity="F1-score of the shape in the preview with that in the final image",
                found=bootstrap(previews[at], within=SHARE),
                rule=RULE_PREVIEW,
                if_not="Outlines may still move while their place stands: the previews in the sheet show it, and "
                "the same study with --guidance-scale 2 or --steps 100 tells whether they are fixed sooner then.",
            )
        )
    return tuple(claims)


def _courses(words: Sequence[Word], maps: Sequence[np.ndarray], seen: Mask | None) -> list[WordCourse]:
    """That of the shape first, then each word's."""
    nouns = " + ".join(word.text for word in words if word.role == "noun")
    return [
        course("shape", nouns, shape_of(words, maps), seen),
        *(course(word.role, word.text, binarise(m), seen) for word, m in zip(words, maps, strict=True)),
    ]


def _table(
    subject: Subject, prompts: Sequence[Prompt], courses: Sequence[Sequence[WordCourse]], other: np.ndarray
) -> dict[str, list[Any]]:
    """A row for each prompt, word followed (or the shape of all nouns) and step."""
    told, tables = subject.about(prompts), []
    for i, mine in enumerate(courses):
        words: dict[str, list[Any]] = {
            "role": [one.role for one in mine],
            "word": [one.text for one in mine],
            "settled": [one.settled for one in mine],
        }
        scores = {
            f"{score}_{against}": [getattr(one, what)[row] for one in mine]
            for against, what in (("last", "last"), ("image", "seen"))
            for row, score in enumerate(("f1", "iou"))
        }
        # Only the shape, which comes first, is compared with another prompt's.
        apart = np.where(np.arange(len(mine))[:, None] == 0, other[i], np.nan)
        prompt = {name: values[i : i + 1] for name, values in told.items()}
        tables.append(crossed(prompt, words, {"step": range(subject.steps)}, **scores, f1_other=apart))
    return stacked(tables)


def _by_step(
    subject: Subject, last: np.ndarray, final: np.ndarray, other: np.ndarray, previews: dict[int, np.ndarray]
) -> Summary:
    names = ["steps done", "F1 with the last map", "IoU with the last map"]
    if subject.is_pocket:
        names += ["F1 with the final image", "IoU with the final image"]
    names.append(f"F1 with another prompt's {'image' if subject.is_pocket else 'last map'}")
    names += ["F1 of the preview with the final image"] if previews else []
    rows = []
    for step in _steps(subject):
        cells = [*last[:, :, step], *(final[:, :, step] if subject.is_pocket else ()), other[:, step]]
        cells += [previews[step]] if previews else []
        rows.append((str(step), *(shown(bootstrap(cell, within=SHARE)) for cell in cells)))
    caption = (
        "The last column needs no attention: it compares shapes in the predicted clean image and in the final one."
    )
    return Summary(tuple(names), tuple(rows), caption if previews else "")


def _settled(subject: Subject, mine: Sequence[WordCourse], role: str) -> float:
    """When the prompt's words of that role settle, in % of the steps; nan if it has none."""
    found = [100 * one.settled / subject.steps for one in mine if one.role == role]
    return float(np.mean(found)) if found else float("nan")


def _chart(subject: Subject, last: np.ndarray, final: np.ndarray, other: np.ndarray) -> Chart:
    towards = {"with the last step's map": last}
    if subject.is_pocket:
        towards["with the shape in the final image"] = final
    labels = {"xlabel": "steps done (%)", "ylabel": "agreement (0 to 1)", "ylim": (0, 1.02)}
    drawn = [{"F1-score": f1_scores, "IoU": ious} for f1_scores, ious in towards.values()]
    drawn[-1]["F1-score, another prompt's shape"] = other
    panels = [
        Panel(subject.percent(), mine, {"title": title, **labels}, at=100 * EARLY)
        for title, mine in zip(towards, drawn, strict=True)
    ]
    at = step_at(subject.steps, EARLY)
    return curves(
        "shape",
        panels,
        f"Agreement of the noun's mask at each step with its final shape; mean and 95% band, n = {last.shape[1]} "
        f"prompts. Dotted: {EARLY:.0%} of the steps.",
        " ".join(
            f"The mean F1-score {title} is {v[0, :, 0].mean():.2f} at the first step, {v[0, :, at].mean():.2f} at "
            f"{EARLY:.0%} of the steps and {v[0, :, -1].mean():.2f} at the last."
            for title, v in towards.items()
        )
        + f" With another prompt's shape it is {other[:, -1].mean():.2f} at the last.",
        width=3.6 * len(panels) + 0.6,
        height=3.2,
    )


def _chart_of_words(found: Mapping[str, Interval], n: int) -> Chart:
    return estimates(
        "words",
        found,
        f"When each word's map settles (IoU with the last step's stays at or above {SETTLED:g}); mean and 95% interval "
        f"over the prompts that have such a word, n = {n} at most.",
        f"Maps settle, in % of the steps: {', '.join(f'{role} {one.estimate:.0f}' for role, one in found.items())}.",
        xlabel="steps until the word's map has settled (% of all)",
        xlim=(-2, 102),
    )


def _sheet(
    subject: Subject,
    prompts: Sequence[Prompt],
    words: Sequence[Sequence[Word]],
    followed: Followed,
    courses: Sequence[Sequence[WordCourse]],
    shapes: Mask,
) -> Picture:
    steps, rows = _steps(subject), []
    for i, prompt in enumerate(prompts[:SHOWN]):
        image, first = followed.images[i], [word.role for word in words[i]].index("noun")
        maps, ious = followed.maps[i][first], courses[i][first + 1].last[1]
        truth = Cell(
            overlay(image, shapes[i].astype(np.float32)),
            "shape in the image" if subject.is_pocket else "shape in the last map",
        )
        previews = [Cell(followed.previews[i, s], "preview") for s in steps if (i, s) in followed.previews]
        rows.append([Cell(image, prompt.text), *(Cell(overlay(image, maps[s]), f"IoU {ious[s]:.2f}") for s in steps)])
        rows.append([truth, *previews])
    titles = [f"{s} of {subject.steps} steps done" for s in steps]
    return Picture(
        "maps",
        contact_sheet(rows, column_titles=["Final image", *titles], picture_width=144),
        "For each prompt, the map of its (first) noun over the final image, orange where there is more attention, the "
        "border of its mask in blue, IoU with the last map below; then the clean image that the step predicts. The "
        "first prompts, none selected.",
        "Two rows for each prompt: attention maps of the noun over the final image at growing numbers of steps, and "
        "previews of the image at the same steps.",
    )


def _method(subject: Subject, prompts: Sequence[Prompt], size: tuple[int, ...]) -> str:
    several = sum(len(prompt.phrases) > 1 for prompt in prompts)
    unknown = sum(not prompt.phrases for prompt in prompts)
    parts = [
        f"One image for each of {len(prompts)} prompts.",
        (
            "Cross-attention weights of the text branch are averaged over heads and layers to "
            f"{size[0]} x {size[1]} pixels in each of {subject.steps} steps; a word's map is the mean over its tokens, "
            "its mask that map binarised by Otsu's threshold."
        ),
        "The final shape is the silhouette in the final image, found from its colours alone, at the map's size."
        if subject.is_pocket
        else "True shapes are not known for this model: the final shape is the last step's mask, and F1 there is 1.",
        f"The step at {EARLY:.0%} is the one that follows when {EARLY:.0%} of the steps are done.",
    ]
    if several:
        parts.append(f"In {several} prompts with several nouns the shape is the union of the nouns' masks.")
    if unknown:
        parts.append(f"In {unknown} prompts without known noun phrases the last content word counts as the noun.")
    if subject.is_pocket:
        parts.append(
            "Unless the last map agrees with its own image's shape more than with the next prompt's, by the interval, "
            "what is said of the map's course counts as inconclusive."
        )
    parts.append("Intervals are bootstrapped over prompts.")
    return " ".join(parts)


STUDY: Final = Study(
    name="f1",
    title="When the shape is fixed",
    question="After how many steps does the noun's attention map have the shape of the final image?",
    paper="The shape is there after the first few steps; later steps only fill in detail.",
    needs="prompts",
    count=16,
    cost=27,
    run=run,
)
