"""F1: when is the shape fixed? The noun's attention map over the steps, against the shape that it ends with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

from shapefirst.drawing import charts
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.findings.finding import Chart, Claim, Finding, Picture, Study, Summary, claim, subject_to
from shapefirst.findings.tables import columns, shown
from shapefirst.measure.intervals import Rule, bootstrap, measured, ratio_of_means
from shapefirst.measure.shapes import Mask, binarise, f1
from shapefirst.prompts import Prompt
from shapefirst.studies.conditions import by_kind, dots
from shapefirst.studies.maps import (
    EARLY,
    ROLES,
    SETTLED,
    Followed,
    Word,
    WordCourse,
    course,
    follow_words,
    overlay,
    shape_in,
    shape_of,
    step_at,
    words_of,
)
from shapefirst.studies.subject import Subject
from shapefirst.studies.switching import cost

#: When a fifth of the steps is done, the agreement with the final shape is above 0.9 of what the last step reaches.
RULE: Final = Rule("above", 0.9)
#: The first fifth of the steps gains more agreement than the other four.
RULE_GAIN: Final = Rule("above", 0.0)
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
    subject.meter.expect(cost(subject) * len(prompts))
    words = [
        words_of(subject.pipe.tokenizer, subject.as_read(prompt), at)
        for prompt, at in zip(prompts, subject.positions(prompts), strict=True)
    ]
    steps = sorted({step_at(subject.steps, share) for share in SHARES})
    few = len(prompts) if subject.is_pocket else min(SHOWN, len(prompts))
    followed = follow_words(
        subject, subject.encode(prompts), subject.seeds(len(prompts)), words, previews=steps, shown=few
    )
    return shape_finding(subject, prompts, words, followed)


def shape_finding(
    subject: Subject, prompts: Sequence[Prompt], words: Sequence[Sequence[Word]], followed: Followed
) -> Finding:
    """What a recorded run says."""
    size = followed.maps[0][0].shape[1:]
    seen = [shape_in(image, size) for image in followed.images] if subject.is_pocket else [None] * len(prompts)
    courses = [_courses(*each) for each in zip(words, followed.maps, seen, strict=True)]
    last = np.stack([mine[0].last for mine in courses], 1)
    final = np.stack([mine[0].seen for mine in courses], 1) if subject.is_pocket else last
    shapes = np.stack(
        [mine[0].masks[-1] if shape is None else shape for mine, shape in zip(courses, seen, strict=True)]
    )
    # The next prompt's shape: what masks have in common that have nothing to do with each other.
    other = np.stack([f1(mine[0].masks, shape) for mine, shape in zip(courses, np.roll(shapes, -1, 0), strict=True)])
    early = final[0, :, step_at(subject.steps, EARLY)]
    previews = _previews(subject, seen, followed)
    return Finding(
        claims=_claims(subject, final, other, previews),
        table=columns(_rows(subject, prompts, courses, other)),
        summaries=(
            _by_step(subject, last, final, other, previews),
            _by_word(subject, courses),
            by_kind(
                {
                    f"F1-score with {_final(subject)}, at {EARLY:.0%}": early,
                    "noun settled after, % of the steps": np.array(
                        [_settled(subject, mine, "noun") for mine in courses]
                    ),
                },
                prompts,
            ),
        ),
        charts=(_chart(subject, last, final, other), _chart_of_words(subject, courses)),
        pictures=(_sheet(subject, prompts, courses, seen, words, followed),),
        method=_method(subject, prompts, size),
        evaluations=cost(subject),
    )


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
            found=bootstrap(scores[:, [at, -1]], ratio_of_means),
            rule=RULE,
            if_not="Maps may sharpen later than the picture, where a model's attention is spread over many tokens: "
            "the previews of the predicted clean image in the sheet show what the picture has by then.",
        ),
        claim(
            f"The shape is gained in the first {EARLY:.0%} of the steps rather than in the rest.",
            paper="later steps only fill in detail",
            quantity=f"F1-score with {what}: gain until {EARLY:.0%} minus gain afterwards",
            found=bootstrap(gain),
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
        found=bootstrap(scores[:, -1] - other[:, -1]),
        rule=RULE_SHOWN,
        if_not="In a small model a word may be attended to around its object rather than on it, or alike everywhere: "
        "the sheet tells which. `shapefirst study f1 --model sd15` draws the same sheet for the paper's own model.",
    )
    why = "The map is not shown to follow the object here (see below): its course says little of the shape."
    claims = [*(subject_to(control, one, why) for one in claims), control]
    if at in previews:
        claims.append(
            claim(
                f"When {EARLY:.0%} of the steps are done, the predicted clean image has the final shape.",
                paper="the shape is there after the first few steps",
                quantity="F1-score of the shape in the preview with that in the final image",
                found=bootstrap(previews[at]),
                rule=RULE_PREVIEW,
                if_not="Outlines may still move while their place stands: the previews in the sheet show it, and "
                "the same study with --guidance-scale 2 or --steps 100 tells whether they are fixed sooner then.",
            )
        )
    return tuple(claims)


def _previews(subject: Subject, seen: Sequence[Mask | None], followed: Followed) -> dict[int, np.ndarray]:
    """Step -> (n,) F1-scores of the shape in the preview with that in the final image, where all have been kept."""
    found: dict[int, np.ndarray] = {}
    for step in sorted({step_at(subject.steps, share) for share in SHARES}):
        scores = [
            float(f1(shape_in(followed.previews[i, step], shape.shape), shape))
            for i, shape in enumerate(seen)
            if shape is not None and (i, step) in followed.previews
        ]
        if len(scores) == len(seen):
            found[step] = np.array(scores)
    return found


def _courses(words: Sequence[Word], maps: Sequence[np.ndarray], seen: Mask | None) -> list[WordCourse]:
    """That of the shape first, then each word's."""
    nouns = " + ".join(word.text for word in words if word.role == "noun")
    return [
        course("shape", nouns, shape_of(words, maps), seen),
        *(course(word.role, word.text, binarise(m), seen) for word, m in zip(words, maps, strict=True)),
    ]


def _rows(
    subject: Subject, prompts: Sequence[Prompt], courses: Sequence[Sequence[WordCourse]], other: np.ndarray
) -> list[dict[str, Any]]:
    return [
        {
            "prompt": prompt.text,
            "kind": prompt.source,
            "seed": subject.seed + i,
            "role": one.role,
            "word": one.text,
            "settled": one.settled,
            "step": step,
            "f1_last": float(one.last[0, step]),
            "iou_last": float(one.last[1, step]),
            "f1_image": float(one.seen[0, step]),
            "iou_image": float(one.seen[1, step]),
            "f1_other": float(other[i, step]) if one.role == "shape" else float("nan"),
        }
        for i, (prompt, mine) in enumerate(zip(prompts, courses, strict=True))
        for one in mine
        for step in range(len(one.masks))
    ]


def _by_step(
    subject: Subject, last: np.ndarray, final: np.ndarray, other: np.ndarray, previews: dict[int, np.ndarray]
) -> Summary:
    names = ["steps done", "F1 with the last map", "IoU with the last map"]
    if subject.is_pocket:
        names += ["F1 with the final image", "IoU with the final image"]
    names.append(f"F1 with another prompt's {'image' if subject.is_pocket else 'last map'}")
    names += ["F1 of the preview with the final image"] if previews else []
    rows = []
    for step in sorted({step_at(subject.steps, share) for share in SHARES}):
        cells = [*last[:, :, step], *(final[:, :, step] if subject.is_pocket else ()), other[:, step]]
        cells += [previews[step]] if previews else []
        rows.append((str(step), *(shown(bootstrap(cell)) for cell in cells)))
    caption = (
        "The last column needs no attention: it compares shapes in the predicted clean image and in the final one."
    )
    return Summary(tuple(names), tuple(rows), caption if previews else "")


def _settled(subject: Subject, mine: Sequence[WordCourse], role: str) -> float:
    """When the prompt's words of that role settle, in % of the steps; nan if it has none."""
    found = [100 * one.settled / subject.steps for one in mine if one.role == role]
    return float(np.mean(found)) if found else float("nan")


def _by_word(subject: Subject, courses: Sequence[Sequence[WordCourse]]) -> Summary:
    rows = []
    for role in ROLES:
        values = measured([_settled(subject, mine, role) for mine in courses])
        if len(values) > 1:
            rows.append((role, str(len(values)), shown(bootstrap(values), 0)))
    return Summary(
        ("word", "prompts", "settled after, % of the steps"),
        tuple(rows),
        f"A word's map has settled once its IoU with the last step's stays at or above {SETTLED:g}.",
    )


def _chart(subject: Subject, last: np.ndarray, final: np.ndarray, other: np.ndarray) -> Chart:
    panels = [("with the last step's map", last)]
    if subject.is_pocket:
        panels.append(("with the shape in the final image", final))
    x = [100 * step / subject.steps for step in range(last.shape[2])]
    with charts.figure(len(panels), width=3.6 * len(panels) + 0.6, height=3.2) as (drawn, axes):
        for axis, (title, values) in zip(axes, panels, strict=True):
            charts.band(axis, x, values[0], style=0, label="F1-score")
            charts.band(axis, x, values[1], style=1, label="IoU")
            axis.axvline(100 * EARLY, color="#777777", linewidth=0.9, linestyle=":")
            axis.set(title=title, xlabel="steps done (%)", ylabel="agreement (0 to 1)", ylim=(0, 1.02))
        charts.band(axes[-1], x, other, style=2, label="F1-score, another prompt's shape")
        drawn.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        image = charts.svg(drawn)
    at = step_at(subject.steps, EARLY)
    return Chart(
        "shape",
        image,
        f"Agreement of the noun's mask at each step with its final shape; mean and 95% band, n = {last.shape[1]} "
        f"prompts. Dotted: {EARLY:.0%} of the steps.",
        " ".join(
            f"The mean F1-score {title} is {v[0, :, 0].mean():.2f} at the first step, {v[0, :, at].mean():.2f} at "
            f"{EARLY:.0%} of the steps and {v[0, :, -1].mean():.2f} at the last."
            for title, v in panels
        )
        + f" With another prompt's shape it is {other[:, -1].mean():.2f} at the last.",
    )


def _chart_of_words(subject: Subject, courses: Sequence[Sequence[WordCourse]]) -> Chart:
    values = {role: measured([_settled(subject, mine, role) for mine in courses]) for role in ROLES}
    found = {role: bootstrap(v) for role, v in values.items() if len(v) > 1}
    with charts.figure(height=2.6) as (drawn, (axis,)):
        for place, one in enumerate(found.values()):
            dots(axis, [one], [place], style=place)
        axis.set_yticks(range(len(found)), list(found))
        axis.set(xlabel="steps until the word's map has settled (% of all)", xlim=(-2, 102))
        axis.set_ylim(len(found) - 0.5, -0.5)
        image = charts.svg(drawn)
    return Chart(
        "words",
        image,
        f"When each word's map settles (IoU with the last step's stays at or above {SETTLED:g}); mean and 95% interval "
        f"over the prompts that have such a word, n = {len(courses)} at most.",
        "Maps settle, in % of the steps: "
        + ", ".join(f"{role} {one.estimate:.0f}" for role, one in found.items())
        + ".",
    )


def _sheet(
    subject: Subject,
    prompts: Sequence[Prompt],
    courses: Sequence[Sequence[WordCourse]],
    seen: Sequence[Mask | None],
    words: Sequence[Sequence[Word]],
    followed: Followed,
) -> Picture:
    steps = sorted({step_at(subject.steps, share) for share in SHARES})
    rows: list[list[Cell]] = []
    for i in range(min(SHOWN, len(prompts))):
        image, shape = followed.images[i], seen[i]
        first = next(place for place, word in enumerate(words[i]) if word.role == "noun")
        maps = followed.maps[i][first]
        rows.append(
            [
                Cell(image, prompts[i].text),
                *(Cell(overlay(image, maps[s]), f"IoU {courses[i][first + 1].last[1, s]:.2f}") for s in steps),
            ]
        )
        truth: Image.Image = overlay(image, (courses[i][0].masks[-1] if shape is None else shape).astype(np.float32))
        previews = [Cell(followed.previews[i, s], "preview") for s in steps if (i, s) in followed.previews]
        rows.append([Cell(truth, "shape in the last map" if shape is None else "shape in the image"), *previews])
    return Picture(
        "maps",
        contact_sheet(
            rows,
            column_titles=["Final image", *(f"{s} of {subject.steps} steps done" for s in steps)],
            picture_width=144,
        ),
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
    count=24,
    quick=4,
    run=run,
)
