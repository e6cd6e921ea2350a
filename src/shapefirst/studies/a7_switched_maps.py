"""A7: maps under a switched [EOS]: does the map of A's noun take the shape of B's object?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

from shapefirst.drawing import charts
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.findings.finding import Chart, Finding, Picture, Study, Summary, claim
from shapefirst.findings.tables import columns, shown
from shapefirst.measure.intervals import Rule, bootstrap
from shapefirst.measure.shapes import Mask, iou
from shapefirst.prompts import Pair
from shapefirst.studies.conditions import by_kind
from shapefirst.studies.maps import Followed, Word, follow_words, nouns_of, overlay, shape_in, shape_of, words_of
from shapefirst.studies.subject import Subject
from shapefirst.studies.switching import cost, described, encode_pairs, padded, pair_label

#: The map of A's noun agrees with the shape of B's object more than with that of A's own.
RULE: Final = Rule("above", 0.0)
SHOWN = 4


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """Runs of the switched prompts with the map of A's noun recorded, and the plain runs that shapes are taken from."""
    sides = encode_pairs(subject, pairs)
    seeds = subject.seeds(len(pairs))
    subject.meter.expect(cost(subject) * 3 * len(pairs))
    nouns_a, nouns_b = (
        [
            nouns_of(words_of(subject.pipe.tokenizer, subject.as_read(prompt), at))
            for prompt, at in zip([getattr(pair, side) for pair in pairs], where, strict=True)
        ]
        for side, where in (("source", sides.at_source), ("target", sides.at_target))
    )

    followed = follow_words(subject, sides.switched(), seeds, nouns_a)
    size = followed.maps[0][0].shape[1:]
    if subject.is_pocket:  # the shapes can be seen in the pictures
        of_a, of_b = (subject.sample(embeddings, seeds) for embeddings in (sides.source, sides.target))
        own, target = ([shape_in(image, size) for image in images] for images in (of_a, of_b))
    else:
        plain = [follow_words(subject, e, seeds, n) for e, n in ((sides.source, nouns_a), (sides.target, nouns_b))]
        of_a, of_b = (run.images for run in plain)
        own, target = (
            [shape_of(n, maps)[-1] for n, maps in zip(nouns, run.maps, strict=True)]
            for nouns, run in zip((nouns_a, nouns_b), plain, strict=True)
        )
    return switched_finding(subject, pairs, nouns_a, followed, np.stack(target), np.stack(own), of_a, of_b)


def switched_finding(
    subject: Subject,
    pairs: Sequence[Pair],
    nouns: Sequence[Sequence[Word]],
    followed: Followed,
    target: Mask,
    own: Mask,
    of_a: Sequence[Image.Image],
    of_b: Sequence[Image.Image],
) -> Finding:
    """What the maps say.

    Args:
        subject: What was sampled.
        pairs: n.
        nouns: A's nouns, of each pair.
        followed: The switched runs, with the maps of these nouns.
        target: (n, h, w), the shapes in B's plain pictures.
        own: (n, h, w), the shapes in A's.
        of_a: A's plain pictures.
        of_b: B's.
    """
    masks = np.stack([shape_of(mine, maps) for mine, maps in zip(nouns, followed.maps, strict=True)])
    # The next pair's gives the agreement of shapes that have nothing to do with each other.
    shapes = {"target": target, "own": own, "unrelated": np.roll(target, -1, 0)}
    agreement = {name: iou(masks, shape[:, None]) for name, shape in shapes.items()}
    difference = agreement["target"][:, -1] - agreement["own"][:, -1]
    return Finding(
        claims=(
            claim(
                "With B's [EOS], the attention map of A's noun has the shape of B's object rather than of its own.",
                paper="maps of A's noun take the shape of B's object",
                quantity="IoU of the last map of A's noun: with the shape in B's plain picture minus with that in A's",
                found=bootstrap(difference),
                rule=RULE,
                if_not="A word may be attended to around its object rather than on it, or alike everywhere: F1 on the "
                "same model gives the agreement of an ordinary noun's map, which this one can hardly exceed.",
            ),
        ),
        table=columns(_rows(subject, pairs, nouns, agreement)),
        summaries=(
            _by_shape(agreement, iou(own, target)),
            by_kind(
                {"IoU with B's shape minus with A's": difference},
                [pair.target for pair in pairs],
                "The kind is that of the target's attribute.",
            ),
        ),
        charts=(_chart(subject, agreement),),
        pictures=(_sheet(pairs, nouns, followed, agreement, of_a, of_b),),
        method=f"{described(pairs)}: A's prompt with the [EOS] and padding of B, "
        f"one run of {subject.steps} steps each. {padded(subject)} "
        "The map of A's noun (mean over its tokens, heads and layers; of "
        "several nouns the union of masks) is binarised by Otsu's threshold and compared with two shapes by IoU. "
        + (
            "These are the silhouettes in the plain pictures of B and of A, of the same seed, found from their colours "
            "alone. "
            if subject.is_pocket
            else "True shapes are not known for this model: they are the last masks of B's noun in B's plain run and "
            "of A's noun in A's plain run, of the same seed. "
        )
        + "Unrelated is the shape of the next pair's B. Intervals are bootstrapped over pairs.",
        evaluations=cost(subject) * 3,
    )


def _rows(
    subject: Subject, pairs: Sequence[Pair], nouns: Sequence[Sequence[Word]], agreement: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    return [
        {
            "pair": i,
            "seed": subject.seed + i,
            "source": pair.source.text,
            "target": pair.target.text,
            "kind": pair.target.source,
            "noun": " + ".join(word.text for word in nouns[i]),
            "step": step,
            "iou_target": float(agreement["target"][i, step]),
            "iou_own": float(agreement["own"][i, step]),
            "iou_unrelated": float(agreement["unrelated"][i, step]),
        }
        for i, pair in enumerate(pairs)
        for step in range(agreement["own"].shape[1])
    ]


def _by_shape(agreement: dict[str, np.ndarray], between: np.ndarray) -> Summary:
    titles = {"target": "of B's object", "own": "of A's own", "unrelated": "unrelated"}
    rows = [
        (title, *(shown(bootstrap(agreement[name][:, step])) for step in (0, -1))) for name, title in titles.items()
    ]
    return Summary(
        ("shape", "IoU in the first step", "IoU in the last step"),
        tuple(rows),
        f"IoU with the map of A's noun. The two shapes themselves agree by {shown(bootstrap(between))}.",
    )


def _chart(subject: Subject, agreement: dict[str, np.ndarray]) -> Chart:
    n, num_steps = agreement["own"].shape
    x = [100 * step / subject.steps for step in range(num_steps)]
    titles = {"target": "B's object", "own": "A's own object", "unrelated": "the next pair's B"}
    with charts.figure(height=3.2) as (drawn, (axis,)):
        for style, (name, title) in enumerate(titles.items()):
            charts.band(axis, x, agreement[name], style=style, label=title)
        axis.set(xlabel="steps done (%)", ylabel="IoU with the map of A's noun (0 to 1)")
        axis.set_ylim(bottom=0)
        drawn.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        image = charts.svg(drawn)
    return Chart(
        "agreement",
        image,
        f"Agreement of the mask of A's noun, under B's [EOS], with three shapes; mean and 95% band, n = {n} pairs.",
        "In the last step the mean IoU of the mask is "
        + ", ".join(f"{agreement[name][:, -1].mean():.2f} with that of {title}" for name, title in titles.items())
        + ".",
    )


def _sheet(
    pairs: Sequence[Pair],
    nouns: Sequence[Sequence[Word]],
    followed: Followed,
    agreement: dict[str, np.ndarray],
    of_a: Sequence[Image.Image],
    of_b: Sequence[Image.Image],
) -> Picture:
    rows = []
    for i, pair in enumerate(pairs[:SHOWN]):
        last = followed.maps[i][0][-1]
        scores = f"IoU {agreement['target'][i, -1]:.2f} with B's shape, {agreement['own'][i, -1]:.2f} with A's"
        rows.append(
            [
                Cell(of_a[i], pair.source.text),
                Cell(followed.images[i], pair_label(pair)),
                Cell(overlay(followed.images[i], last), f'"{nouns[i][0].text}": {scores}'),
                Cell(of_b[i], pair.target.text),
            ]
        )
    return Picture(
        "maps",
        contact_sheet(rows, column_titles=["Source A", "A with the [EOS] of B", "Map of A's noun", "Target B"]),
        f"The first {len(rows)} pairs, one seed each, none selected. The map is that of A's noun in the last step, "
        "orange where there is more attention, the border of its mask in blue.",
        "Rows of four pictures: the source prompt's, the one with exchanged [EOS], the same under the attention map of "
        "the source's noun, and the target prompt's.",
    )


STUDY: Final = Study(
    name="a7",
    title="Maps under a switched [EOS]",
    question="With the [EOS] of B, does the attention map of A's noun take the shape of B's object?",
    paper="Maps of A's noun take the shape of B's object.",
    needs="pairs",
    count=16,
    quick=4,
    run=run,
)
