"""What `sweep latency` has measured: seconds of whole calls and of their parts, and its tables. No torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from shapefirst.checks import fitted, json_of
from shapefirst.errors import ShapefirstError, first_line
from shapefirst.findings.finding import Summary
from shapefirst.sweep.grid import Setting

__all__ = [
    "Latency",
    "Parts",
    "Timing",
    "calls_table",
    "latencies_text",
    "parts_table",
    "read_latencies",
    "rounds_of",
    "updated",
]


@dataclass(frozen=True)
class Timing:
    """Whole calls under one policy.

    Attributes:
        batch: Images in a call.
        policy: In words.
        evaluations_saved: Share of the evaluations of full guidance.
        seconds: Of a call, in each round.
        stock: The mean of the stock calls around it, in each round.
    """

    batch: int
    policy: str
    evaluations_saved: float
    seconds: tuple[float, ...]
    stock: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.batch < 1 or not len(self.seconds) == len(self.stock) > 0 or min(*self.seconds, *self.stock) <= 0:
            raise ShapefirstError("Calls have a batch of 1 or more, and a time each, as the stock pipeline's have.")

    @property
    def saved(self) -> tuple[float, float, float]:
        """Share of the stock pipeline's seconds that is saved: lower quartile, median, upper quartile of the rounds."""
        shares = [1 - mine / stock for mine, stock in zip(self.seconds, self.stock, strict=True)]
        if len(shares) < 2:
            return (shares[0],) * 3
        low, middle, high = statistics.quantiles(shares, n=4)
        return low, middle, high


@dataclass(frozen=True)
class Parts:
    """Seconds of a call's parts, medians, for one batch size.

    Attributes:
        batch: Images.
        encoder: Text encoder, both prompts.
        guided: Denoiser, one guided step: 2 x batch rows.
        single: Denoiser, one branch: batch rows.
        decoder: Latents to images.
        flops: Of the denoiser for one evaluation of one image.
    """

    batch: int
    encoder: float
    guided: float
    single: float
    decoder: float
    flops: float


@dataclass(frozen=True)
class Latency:
    """All of one setting.

    Attributes:
        setting: How images were sampled.
        machine: In words.
        timings: Of whole calls.
        parts: Of their parts.
    """

    setting: Setting
    machine: str
    timings: tuple[Timing, ...]
    parts: tuple[Parts, ...]

    def __post_init__(self) -> None:
        if not (self.timings and self.parts):
            raise ShapefirstError(f"There is no time for {self.setting}.")


@dataclass(frozen=True)
class _Latencies:
    settings: tuple[Latency, ...]


def latencies_text(latencies: Iterable[Latency]) -> str:
    """JSON, for `read_latencies`."""
    return json.dumps([asdict(one) for one in latencies], indent=1)


def read_latencies(text: str) -> list[Latency]:
    """From JSON.

    Raises:
        ShapefirstError: It is none.
    """
    try:
        return list(fitted(_Latencies, {"settings": json_of(text.encode())}, "").settings)
    except ValueError as error:
        raise ShapefirstError(
            f"The latencies of this sweep (latency.json) are damaged ({first_line(error)}): `shapefirst sweep latency` "
            "measures them anew."
        ) from error


def updated(before: Latency | None, now: Latency) -> Latency:
    """What was measured before, but for what has been measured again; of another machine nothing stays."""
    if before is None or before.machine != now.machine:
        return now
    timings = {(one.policy, one.batch): one for one in (*before.timings, *now.timings)}
    parts = {one.batch: one for one in (*before.parts, *now.parts)}
    return replace(now, timings=tuple(timings.values()), parts=tuple(parts[batch] for batch in sorted(parts)))


def calls_table(latency: Latency) -> Summary:
    """Whole calls: a row for each policy and for the stock pipeline, a column for each batch size."""
    batches = sorted({timing.batch for timing in latency.timings})
    flops = latency.parts[0].flops  # of one image, whatever the batch
    columns = (
        "policy",
        "evaluations",
        "saved",
        "GFLOPs an image",
        *(f"batch {batch}: s an image" for batch in batches),
    )
    stock = {
        batch: statistics.median([seconds for one in latency.timings if one.batch == batch for seconds in one.stock])
        for batch in batches
    }
    full = latency.setting.fully_guided
    rows = []
    policies: dict[str, dict[int, Timing]] = {}
    for timing in sorted(latency.timings, key=lambda one: -one.evaluations_saved):
        policies.setdefault(timing.policy, {})[timing.batch] = timing
    for policy, timings in policies.items():
        saved = next(iter(timings.values())).evaluations_saved
        evaluations = full * (1 - saved)
        cells = [f"{evaluations:g}", f"{saved:.0%}", f"{evaluations * flops / 1e9:.3g}"]
        for batch in batches:
            if batch not in timings:
                cells.append("–")
                continue
            low, middle, high = timings[batch].saved
            seconds = statistics.median(timings[batch].seconds) / batch
            cells.append(f"{seconds:.2f}, {middle:.0%} saved ({low:.0%} to {high:.0%})")
        rows.append((policy, *cells))
    seconds_of_stock = (f"{stock[batch] / batch:.2f}" for batch in batches)
    rows.append(("stock pipeline", str(full), "–", f"{full * flops / 1e9:.3g}", *seconds_of_stock))
    caption = (
        f"{latency.setting}: seconds of whole calls, medians of {rounds_of(latency)} rounds; what is saved against the "
        "stock pipeline's calls before and after, with the middle half of the rounds; FLOPs of the denoiser; on "
        f"{latency.machine}."
    )
    return Summary(columns, tuple(rows), caption)


def rounds_of(latency: Latency) -> str:
    """How many, in words: "5", or "3 to 5"."""
    rounds = sorted({len(timing.seconds) for timing in latency.timings})
    return str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"


def parts_table(latency: Latency) -> Summary:
    """Where a call's seconds go: a row for each batch size."""
    columns = ("batch", "text encoder", "guided step", "step of one branch", "decoder", "GFLOPs of an evaluation")
    rows = tuple(
        (
            str(one.batch),
            *(f"{1000 * seconds:.1f} ms" for seconds in (one.encoder, one.guided, one.single, one.decoder)),
            f"{one.flops / 1e9:.3g}",
        )
        for one in latency.parts
    )
    return Summary(columns, rows, f"{latency.setting}: seconds of a call's parts, medians, on {latency.machine}.")
