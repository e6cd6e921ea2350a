"""A7: maps under a switched [EOS]: does the map of A's noun take the shape of B's object?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from shapefirst.drawing.overlays import overlay
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.findings.finding import Chart, Finding, Picture, Study, Summary, claim
from shapefirst.findings.tables import crossed, shown
from shapefirst.measure.intervals import LEAST, SHARE, SIGNED, Rule, bootstrap
from shapefirst.measure.shapes import Mask, iou
from shapefirst.prompts import Pair
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.maps import Followed, Word, follow_words, followable, nouns_of, shape_in, shape_of
from shapefirst.studies.subject import Subject
from shapefirst.studies.switching import Switched, encode_pairs, padded, pair_label

#: The map of A's noun agrees with the shape of B's object more than with that of A's own.
RULE: Final = Rule("above", 0.0, LEAST)
SHOWN = 4


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """Runs of the switched prompts with the map of A's noun recorded, and the plain runs that shapes are taken from."""
    sides = encode_pairs(subject, pairs)
    subject.meter.expect(subject.cost() * 3 * len(pairs))
    nouns = [
        [nouns_of(words) for words in followable(subject, *side)]
        for side in ((sides.sources, sides.at_source), (sides.targets, sides.at_target))
    ]
    followed = follow_words(subject, sides.switched(), sides.seeds, nouns[0])
    embedded = (sides.source, sides.target)
    plain = [follow_words(subject, e, sides.seeds, mine) for e, mine in zip(embedded, nouns, strict=True)]
    if subject.is_pocket:  # the shapes can be seen in the pictures
        shapes = [[shape_in(image, followed.maps[0][0].shape[1:]) for image in run.images] for run in plain]
    else:
        shapes = [
            [shape_of(words, maps)[-1] for words, maps in zip(mine, run.maps, strict=True)]
            for mine, run in zip(nouns, plain, strict=True)
        ]
    own, target = map(np.stack, shapes)
    return switched_finding(sides, nouns[0], followed, target, own, *(run.images for run in plain))


def switched_finding(
    sides: Switched,
    nouns: Sequence[Sequence[Word]],
    followed: Followed,
    target: Mask,
    own: Mask,
    of_a: Sequence[Image.Image],
    of_b: Sequence[Image.Image],
) -> Finding:
    """What the maps say.

    Args:
        sides: The n pairs.
        nouns: A's nouns, of each pair.
        followed: The switched runs, with the maps of these nouns.
        target: (n, h, w), the shapes in B's plain pictures.
        own: (n, h, w), the shapes in A's.
        of_a: A's plain pictures.
        of_b: B's.
    """
    subject, pairs = sides.subject, sides.pairs
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
                found=bootstrap(difference, within=SIGNED),
                rule=RULE,
                if_not="A word may be attended to around its object rather than on it, or alike everywhere: F1 on the "
                "same model gives the agreement of an ordinary noun's map, which this one can hardly exceed.",
            ),
        ),
        table=crossed(
            {**sides.about(), "noun": [" + ".join(word.text for word in mine) for mine in nouns]},
            {"step": range(subject.steps)},
            **{f"iou_{name}": values for name, values in agreement.items()},
        ),
        summaries=(
            _by_shape(agreement, iou(own, target)),
            sides.by_kind({"IoU with B's shape minus with A's": difference}, within=SIGNED),
        ),
        charts=(_chart(subject, agreement),),
        pictures=(_sheet(pairs, nouns, followed, agreement, of_a, of_b),),
        method=f"{sides.described}: A's prompt with the [EOS] and padding of B, "
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
        evaluations=subject.cost() * 3,
    )


def _by_shape(agreement: dict[str, np.ndarray], between: np.ndarray) -> Summary:
    titles = {"target": "of B's object", "own": "of A's own", "unrelated": "unrelated"}
    rows = [
        (title, *(shown(bootstrap(agreement[name][:, step], within=SHARE)) for step in (0, -1)))
        for name, title in titles.items()
    ]
    return Summary(
        ("shape", "IoU in the first step", "IoU in the last step"),
        tuple(rows),
        f"IoU with the map of A's noun. The two shapes themselves agree by {shown(bootstrap(between, within=SHARE))}.",
    )


def _chart(subject: Subject, agreement: dict[str, np.ndarray]) -> Chart:
    titles = {"target": "B's object", "own": "A's own object", "unrelated": "the next pair's B"}
    labels = {"xlabel": "steps done (%)", "ylabel": "IoU with the map of A's noun (0 to 1)", "ylim": (0, None)}
    return curves(
        "agreement",
        [Panel(subject.percent(), {title: agreement[name] for name, title in titles.items()}, labels)],
        "Agreement of the mask of A's noun, under B's [EOS], with three shapes; mean and 95% band, "
        f"n = {len(agreement['own'])} pairs.",
        "In the last step the mean IoU of the mask is "
        + ", ".join(f"{agreement[name][:, -1].mean():.2f} with that of {title}" for name, title in titles.items())
        + ".",
        height=3.2,
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
    count=8,
    cost=30,
    run=run,
)
