"""The studies of switched and blanked embeddings: F4, F5, A1, A2, A3, A4 and X1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from alphabets import bytes_of_clip, reading_with
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shapefirst.families.layout import denoiser_of
from shapefirst.findings.finding import DoesNotApply, Finding
from shapefirst.findings.tables import cell
from shapefirst.measure import l1
from shapefirst.measure.judging import JudgeScore
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts import Pair, Prompt
from shapefirst.sampling.loop import generators
from shapefirst.studies import (
    a1_how_many_eos,
    a2_alone,
    a3_words_or_eos,
    a4_key_or_value,
    a5_maps_of_keys,
    a7_switched_maps,
    conditions,
    f3_sos_attention,
    f4_eos_decides,
    f5_when_it_decides,
    settings,
    x1_conditions,
)
from shapefirst.studies.conditions import unrelated
from shapefirst.studies.subject import Meter, Subject
from shapefirst.studies.switching import encode_pairs, padded, seen_eos
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS

pytestmark = pytest.mark.usefixtures("few_will_do")

STEPS = 4
SOURCES = [
    Prompt.of(("red", "car"), "colour"),
    Prompt.of(("wooden", "bed"), "texture"),
    Prompt.of(("blue", "cup"), "colour"),
]
TARGETS = [
    Prompt.of(("blue", "star"), "colour"),
    Prompt.of(("green", "fish"), "colour"),
    Prompt.of(("metal", "hat"), "texture"),
]
PAIRS = [Pair(a, b) for a, b in zip(SOURCES, TARGETS, strict=True)]
STUDIES = (
    f4_eos_decides,
    f5_when_it_decides,
    a1_how_many_eos,
    a2_alone,
    a3_words_or_eos,
    a4_key_or_value,
    x1_conditions,
)


class Fake:
    """An alignment with a given answer; it keeps the images that it was shown."""

    title, unit = "Fake", "points"

    def __init__(self, score: Callable[[int, Image.Image, Prompt], float]) -> None:
        self._score = score
        self.shown: list[Sequence[Image.Image]] = []

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> np.ndarray:
        self.shown.append(images)
        return np.array([self._score(i, *both) for i, both in enumerate(zip(images, prompts, strict=True))])


def brightness(i: int, image: Image.Image, prompt: Prompt) -> float:
    return float(np.asarray(image).mean()) / (1 + len(prompt.text))


def is_a_target(i: int, image: Image.Image, prompt: Prompt) -> float:
    return float(prompt in TARGETS)


def subject_of(pipe: Any, score: Callable[[int, Image.Image, Prompt], float] = brightness, **options: Any) -> Subject:
    return Subject("tiny", pipe, {"fake": Fake(score)}, steps=STEPS, batch_size=2, meter=Meter(), seed=3, **options)


def closeness(pipe: Any) -> Callable[[int, Image.Image, Prompt], float]:
    """Minus the L1 distance to the plain image of the prompt, of the seed that image i of a study has."""
    plain = subject_of(pipe)

    @cache
    def image_of(i: int, text: str) -> Image.Image:
        return plain.sample(plain.encode([text]), [plain.seed + i])[0]

    def score(i: int, image: Image.Image, prompt: Prompt) -> float:
        return -l1(image, image_of(i, prompt.text))

    return score


def given_to(module: Any) -> Sequence[Any]:
    return PAIRS if module.STUDY.needs == "pairs" else SOURCES


def far(images: Sequence[Image.Image], others: Sequence[Image.Image]) -> int:
    """The largest difference between any two bytes."""
    return max(
        int(np.abs(np.asarray(x, np.int64) - np.asarray(y, np.int64)).max())
        for x, y in zip(images, others, strict=True)
    )


def rows_of(finding: Finding, **wanted: Any) -> list[float]:
    columns = finding.table
    return [
        score
        for i, score in enumerate(columns["score"])
        if all(columns[name][i] == value for name, value in wanted.items())
    ]


@pytest.mark.usefixtures("sketched")
def test_what_a_model_pads_with_is_said(make_pipe: Any, tmp_path: Any) -> None:
    assert padded(subject_of(make_pipe())) == "Prompts are padded with [EOS] itself."
    assert "padded with <pad>, which is masked" in padded(subject_of(make_pipe("pixart")))
    other = subject_of(reading_with(make_pipe(), bytes_of_clip(tmp_path, "!")))
    assert 'pads prompts with "!" and not with [EOS]' in padded(other)
    other = replace(other, steps=2)
    for module in (*STUDIES, f3_sos_attention, a5_maps_of_keys, a7_switched_maps):
        assert padded(other) in module.run(other, given_to(module)[:2]).method


def test_the_eos_of_a_prompt_that_says_what_the_model_pads_with_is_its_last(make_pipe: Any, tmp_path: Any) -> None:
    pipe = reading_with(make_pipe(), bytes_of_clip(tmp_path, "!"))
    subject = subject_of(pipe)
    sides = encode_pairs(subject, [Pair(Prompt("a!! car!"), Prompt("a dog !"))])
    switched, (a, b) = sides.switched().text[0], (sides.source.text[0], sides.target.text[0])
    end, other = len("a!!car!") + 1, len("adog!") + 1  # every letter is a token
    assert torch.equal(switched[:end], a[:end])
    assert torch.equal(switched[end : 77 + end - other], b[other:][: 77 - end])
    assert seen_eos(sides.source, sides.at_source) == [tuple(range(end, 77))]


@pytest.mark.parametrize(("kind", "sampler"), [("sd-epsilon", "heun"), ("pixart", "ddim")])
@pytest.mark.parametrize("module", STUDIES, ids=lambda module: module.STUDY.name)
def test_the_evaluations_said_are_those_that_the_denoiser_did(
    make_pipe: Any, module: Any, kind: str, sampler: str, request: Any
) -> None:
    """Heun calls it twice in every step but the last."""
    if kind == "pixart":  # its charts are drawn for a U-Net
        request.getfixturevalue("sketched")
    pipe = make_pipe(kind, sampler)
    subject, done = subject_of(pipe), 0

    def count(denoiser: Any, args: Any, kwargs: Any) -> None:
        nonlocal done
        done += len(args[0] if args else kwargs["hidden_states"])

    hook = denoiser_of(pipe).register_forward_pre_hook(count, with_kwargs=True)
    try:
        finding = module.run(subject, given_to(module))
    finally:
        hook.remove()
    assert subject.meter.expected == subject.meter.done == done
    extra = 2 * subject.cost() * len(PAIRS) if module is f4_eos_decides else 0  # the plain pictures beside the switched
    assert finding.evaluations * len(given_to(module)) + extra == done
    assert len({len(column) for column in finding.table.values()}) == 1
    assert finding.claims
    assert all(found.svg.startswith("<svg") for found in finding.charts)
    assert all(len(row) == len(summary.columns) for summary in finding.summaries for row in summary.rows)


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    ("score", "verdict"), [(is_a_target, "replicates"), (lambda *x: 1 - is_a_target(*x), "does not replicate")]
)
def test_f4_says_whose_prompt_the_images_are_nearer_to(make_pipe: Any, score: Any, verdict: str) -> None:
    finding = f4_eos_decides.run(subject_of(make_pipe(), score), PAIRS)
    (claim,) = finding.claims
    assert claim.verdict == verdict
    assert abs(claim.found.estimate) == 1
    assert bool(claim.hypothesis) == (verdict != "replicates")


@pytest.mark.usefixtures("sketched")
def test_f4_tells_noun_and_attribute_apart_where_they_are_judged(make_pipe: Any) -> None:
    """Images of the target's noun in the source's attribute."""
    subject = subject_of(make_pipe(), lambda i, image, prompt: 0.5)
    judged = {"judge-noun": Fake(is_a_target), "judge-attribute": Fake(lambda *x: 1 - is_a_target(*x))}
    finding = f4_eos_decides.run(replace(subject, alignments={**subject.alignments, **judged}), PAIRS)
    assert [claim.verdict for claim in finding.claims] == ["inconclusive", "replicates", "does not replicate"]
    assert ["noun" in claim.statement for claim in finding.claims] == [False, True, False]


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_f5_switches_in_every_step_or_none_at_the_ends_of_both_families(make_pipe: Any, kind: str) -> None:
    subject = subject_of(make_pipe(kind))
    sides, seeds = encode_pairs(subject, PAIRS), subject.seeds(len(PAIRS))
    images = f5_when_it_decides.sample_windows(subject, sides, f5_when_it_decides.grid(STEPS))
    switched, source = subject.sample(sides.switched(), seeds), subject.sample(sides.source, seeds)
    assert far(switched, source) > 0
    assert far(images[f"[0, {STEPS})"], switched) == 0
    assert far(images["[0, 0)"], source) == far(images[f"[{STEPS}, {STEPS})"], source) == 0


@pytest.mark.parametrize(("window", "start", "stop"), [("[0, 1)", 0, 1), ("[1, 4)", 1, 4)])
def test_f5_is_the_stock_pipeline_with_its_prompt_exchanged_on_the_way(
    make_pipe: Any, window: str, start: int, stop: int
) -> None:
    pipe = make_pipe()
    subject = subject_of(pipe)
    sides, seeds = encode_pairs(subject, PAIRS), subject.seeds(len(PAIRS))
    images = f5_when_it_decides.sample_windows(subject, sides, f5_when_it_decides.grid(STEPS))[window]

    def in_step(i: int) -> torch.Tensor:
        return (sides.switched() if start <= i < stop else sides.source).text

    def exchange(pipe: Any, i: int, t: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"prompt_embeds": torch.cat([sides.source.null, in_step(i + 1)])}

    naive = pipe(
        prompt_embeds=in_step(0),
        negative_prompt_embeds=sides.source.null,
        num_inference_steps=STEPS,
        guidance_scale=subject.guidance_scale,
        generator=generators(seeds),
        callback_on_step_end=exchange,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    ).images
    assert far(images, naive) <= 1


@given(st.integers(2, 200))
def test_f5_takes_at_most_half_of_the_evaluations_of_separate_runs(steps: int) -> None:
    done, apart = f5_when_it_decides.evaluations_of_windows(
        replace(subject_of(SimpleNamespace(scheduler=None)), steps=steps)
    )
    at = f5_when_it_decides.grid(steps)
    assert 2 * done <= apart
    assert apart == sum(2 * steps for family in range(2) for a in at)
    assert (at[0], at[-1]) == (0, steps)
    assert (steps + 1) // 2 in at


@pytest.mark.usefixtures("sketched")
def test_f5_compares_the_halves_of_the_run(make_pipe: Any) -> None:
    pipe = make_pipe()
    finding = f5_when_it_decides.run(subject_of(pipe, closeness(pipe)), PAIRS)
    leads = {
        window: np.subtract(*(rows_of(finding, condition=window, side=side) for side in ("target B", "source A")))
        for window in ("[0, 2)", "[2, 4)")
    }
    assert finding.claims[0].found.estimate == pytest.approx((leads["[0, 2)"] - leads["[2, 4)"]).mean())
    assert rows_of(finding, condition="[0, 0)", side="source A") == [0, 0, 0]  # the plain image itself
    assert max(rows_of(finding, condition="[0, 4)", side="source A")) < 0


def test_f5_needs_two_steps(make_pipe: Any) -> None:
    with pytest.raises(DoesNotApply, match="1 step"):
        f5_when_it_decides.run(replace(subject_of(make_pipe()), steps=1), PAIRS)


@pytest.mark.parametrize(
    ("curve", "step"), [([0, 1, 2, 3, 4], 20), ([0, 4, 4, 4, 4], 5), ([0, 0, 0, 0, 4], 35), ([0, 0, 4, 1, 4], 15)]
)
def test_half_of_an_effect_is_found_between_the_steps(curve: list[float], step: float) -> None:
    rising = np.array([curve, curve]) * [[0.5], [1.5]]
    assert f5_when_it_decides.half_reached(rising, [0, 10, 20, 30, 40]) == pytest.approx(step)
    assert np.isnan(f5_when_it_decides.half_reached(-rising, [0, 10, 20, 30, 40]))


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_a1_goes_from_the_plain_source_to_f4(make_pipe: Any, kind: str) -> None:
    subject = subject_of(make_pipe(kind))
    sides, seeds = encode_pairs(subject, PAIRS), subject.seeds(len(PAIRS))
    finding = a1_how_many_eos.run(subject, PAIRS)
    shown = subject.alignments["fake"].shown
    assert far(shown[0], subject.sample(sides.source, seeds)) == 0
    assert far(shown[-1], subject.sample(sides.switched(), seeds)) == 0
    numbers = list(dict.fromkeys(finding.table["switched"]))
    if kind == "pixart":  # one </s>, and its padding is masked
        assert numbers == [0, -1]
        assert [claim.rule for claim in finding.claims] == [a1_how_many_eos.RULE_ALL]
        assert far(shown[-1], subject.sample(sides.switched(1), seeds)) == 0
    else:
        assert numbers == [0, 1, 2, 4, 8, 16, 32, -1]
        assert len(finding.claims) == 2


@hypothesis.settings(deadline=None)  # the first one imports scipy
@given(st.permutations(range(6)))
def test_spearman_is_its_formula_where_no_values_are_equal(order: list[int]) -> None:
    apart = sum((i - rank) ** 2 for i, rank in enumerate(order))
    naive = 1 - 6 * apart / (6 * (36 - 1))
    assert a1_how_many_eos.spearman(np.arange(6), np.exp(order)) == pytest.approx(naive)


def test_spearman_shares_the_ranks_of_equal_values() -> None:
    assert a1_how_many_eos.spearman(np.arange(4), np.array([5, 1, 5, 7])) == pytest.approx(3 / 22.5**0.5)
    assert a1_how_many_eos.spearman(np.arange(4), np.ones(4)) == 0


@pytest.mark.usefixtures("sketched")
def test_a2_draws_the_same_from_any_prompts_sos_alone(make_pipe: Any) -> None:
    subject = subject_of(make_pipe())
    a2_alone.run(subject, SOURCES)
    a2_alone.run(subject, TARGETS)
    shown = subject.alignments["fake"].shown
    half = len(shown) // 2
    # CLIP is causal: the [SOS] knows nothing of the prompt, whereas the [EOS] knows all of it.
    assert far(shown[0], shown[half]) <= 1
    assert far(shown[2], shown[half + 2]) > 1


@pytest.mark.usefixtures("sketched")
def test_a2_says_nothing_of_an_sos_that_is_not_there(make_pipe: Any) -> None:
    finding = a2_alone.run(subject_of(make_pipe("pixart")), SOURCES)
    assert set(finding.table["condition"]) == {"[EOS] alone", "words alone", "untouched"}
    assert [claim.rule for claim in finding.claims] == [a2_alone.RULE_CHANCE]
    assert "does not apply" in finding.method


def test_an_unrelated_prompt_shares_no_word() -> None:
    car, cup, bed = (Prompt.of(phrase, "colour") for phrase in (("red", "car"), ("red", "cup"), ("blue", "bed")))
    assert unrelated([car, cup, bed]) == [2, 2, 0]
    assert unrelated([car, cup]) == [1, 0]


@pytest.mark.usefixtures("sketched")
def test_a3_finds_the_untouched_prompt_nearest_to_itself(make_pipe: Any) -> None:
    pipe = make_pipe()
    finding = a3_words_or_eos.run(subject_of(pipe, closeness(pipe)), SOURCES)
    both, eos = finding.claims
    of = {name: np.mean(rows_of(finding, condition=name)) for name in dict.fromkeys(finding.table["condition"])}
    assert of["untouched"] == 0
    assert both.verdict == "replicates"
    assert both.found.estimate == pytest.approx(-max(score for name, score in of.items() if name != "untouched"))
    halves = of["words zero"] + of["words noise"] - of["[EOS] zero"] - of["[EOS] noise"]
    assert eos.found.estimate == pytest.approx(halves / 2)


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_a4_keys_and_values_together_are_the_switched_embeddings(make_pipe: Any, kind: str) -> None:
    subject = subject_of(make_pipe(kind))
    sides, seeds = encode_pairs(subject, PAIRS), subject.seeds(len(PAIRS))
    made = {
        name: a4_key_or_value.sample_edited(subject, sides, keys=keys, values=values)
        for name, (keys, values) in a4_key_or_value.EDITS.items()
    }
    assert far(made["keys and values"], subject.sample(sides.switched(), seeds)) <= 1
    assert far(made["none"], subject.sample(sides.source, seeds)) == 0
    for one, other in (("keys", "none"), ("values", "none"), ("keys", "values"), ("values", "keys and values")):
        assert far(made[one], made[other]) > 0, (one, other)


def test_x1_measures_each_setting_as_a_run_of_its_own(make_pipe: Any) -> None:
    subject = subject_of(make_pipe(), guidance_scale=3.0)
    every = settings.settings(subject)
    assert [(s.scale, s.steps) for s in every] == [(2, 4), (3, 4), (4, 4), (7.5, 4), (12, 4), (3, 2)]
    embeddings, seeds = subject.encode(SOURCES), subject.seeds(len(SOURCES))
    found = settings.distances(subject, every, embeddings, seeds)
    assert found.shape == (len(SOURCES), len(every), 2)
    for s in (3, 5):
        there = settings.under(subject, every[s])
        schedules = (TextSchedule.always(), TextSchedule.until(every[s].half), TextSchedule.never())
        full, half, none = (there.sample(embeddings, seeds, schedule=schedule) for schedule in schedules)
        naive = [(l1(x, z), l1(y, z)) for x, y, z in zip(half, none, full, strict=True)]
        assert np.allclose(found[:, s], naive, atol=1e-6)


def test_x1_compares_the_objects_of_one_prompt(make_pipe: Any) -> None:
    """The second object's alignment goes with the text by 0.5, the first's by 0.1."""
    subject = subject_of(make_pipe())
    calls = iter([0.9, 0.9, 0.1, 0.8, 0.4, 0.1])  # full: first, second object, chance; dropped: the same
    subject.alignments["fake"].score = lambda images, prompts: np.full(len(images), next(calls))
    images, objects = settings.with_two_objects(subject, PAIRS)
    assert settings.two_objects(PAIRS[0]) == Prompt(
        "a red car and a blue star", (("red", "car"), ("blue", "star")), "complex"
    )
    losses = x1_conditions._losses(objects, "fake")
    assert np.allclose(losses["first object"], 0.1)
    assert np.allclose(losses["second object"], 0.5)
    assert list(images) == ["text in all steps", "text in the first half"]


def test_x1_asks_pockets_judge_for_an_object_in_either_place() -> None:
    source, target = PAIRS[0].source, PAIRS[0].target
    first, second = ((ATTRIBUTES.index(a), NOUNS.index(n)) for prompt in (source, target) for a, n in prompt.phrases)

    def see(images: list[Image.Image]) -> Iterator[tuple[list[torch.Tensor], None]]:
        """The source in the first place, the target in the second, both surely."""
        seen = [(first[1], 40), (first[0], 18), (second[1], 41), (second[0], 19)]
        yield [50 * torch.eye(classes)[[i] * len(images)] for i, classes in seen], None

    judge: Any = SimpleNamespace(see=see)
    alignment, image = JudgeScore(judge), Image.new("RGB", (64, 64))
    pocket = replace(subject_of(None), name="pocket")
    asked = [settings.in_either_place(pocket, prompt) for prompt in (source, target, SOURCES[1])]
    assert alignment.score([image] * 2, [source, target]) == pytest.approx([1, 0])
    assert alignment.score([image] * 3, asked) == pytest.approx([0.5, 0.5, 0])
    assert settings.in_either_place(subject_of(None), source) == source


def test_x1_needs_guidance(make_pipe: Any) -> None:
    with pytest.raises(DoesNotApply, match="scale above 1"):
        x1_conditions.run(subject_of(make_pipe(), guidance_scale=1.0), PAIRS)


def test_scores_are_found_by_their_names() -> None:
    subject = subject_of(None, lambda i, image, prompt: 10 * image.width + i + 0.5 * (prompt in TARGETS))
    images = {name: [Image.new("RGB", (size, 1))] * 3 for name, size in (("small", 1), ("large", 2))}
    scores = conditions.score_conditions(subject, images, {"source A": SOURCES, "target B": TARGETS})
    assert scores.of("fake", "large", "target B").tolist() == [20.5, 21.5, 22.5]
    assert scores.lead("fake", "small").tolist() == [0.5] * 3
    table = conditions.tidy(subject, scores, {"size": [1, 2]})
    rows = list(zip(table["size"], table["prompt"], table["score"], strict=True))
    assert len(rows) == 3 * 2 * 2
    assert [score for size, prompt, score in rows if size == 2 and prompt == "a blue cup"] == [22]
    kinds = conditions.by_kind({"lead": scores.lead("fake", "small")}, TARGETS)
    assert kinds.columns[1:] == ("colour, n = 2", "texture, n = 1")
    assert kinds.rows == (("lead", "0.50 (0.50 to 0.50)", "too few"),)


def test_a_prompt_is_read_as_the_pipeline_hands_it_to_its_tokenizer(make_pipe: Any) -> None:
    """PixArt's lowers the case, so that the positions of "A red CAR" are those of "a red car"."""
    prompt = replace(SOURCES[0], text="A red CAR")
    pixart, sd = subject_of(make_pipe("pixart")), subject_of(make_pipe())
    assert pixart.as_read(prompt).text == SOURCES[0].text
    assert pixart.as_read(prompt).phrases == prompt.phrases
    assert sd.as_read(prompt) == prompt
    assert pixart.positions([prompt]) == pixart.positions(SOURCES[:1])


def test_pairs_that_share_words_are_said_to(make_pipe: Any) -> None:
    sides = encode_pairs(subject_of(make_pipe()), PAIRS)
    assert sides.described == "3 pairs that share neither noun nor attribute"
    more = replace(sides, pairs=[*PAIRS, Pair(SOURCES[0], SOURCES[0])])
    assert more.described == "4 pairs, 1 of which share a word"


def test_pocket_s_score_is_told_for_what_it_is() -> None:
    pocket = replace(subject_of(None), name="pocket", alignments={"clipscore": Fake(brightness)})
    assert "neither drawn nor missed" in conditions.scored(pocket)
    assert conditions.scored(subject_of(None)) == "Verdicts go by Fake."


@pytest.mark.usefixtures("sketched")
def test_scores_that_could_not_be_read_leave_a_table_whole(make_pipe: Any) -> None:
    """A score of one image only has no interval: its cells say so, and its dots are missing."""
    answers = Fake(lambda i, image, prompt: 1.0 if i == 0 else float("nan"))
    subject = subject_of(make_pipe())
    subject = replace(subject, alignments={**subject.alignments, "answers": answers})
    finding = a3_words_or_eos.run(subject, SOURCES)
    assert {row[2] for row in finding.summaries[0].rows[5:]} == {"too few"}
    assert cell(np.array([1.0, np.nan])) == "too few"
    assert cell(np.array([1.0, 1.0, np.nan])) == "1.00 (1.00 to 1.00)"
