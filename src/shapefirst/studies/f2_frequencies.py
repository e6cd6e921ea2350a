"""F2: why the shape first? Which frequencies drown last in the noise, and which come back first.

    x_t      = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
    snr_b(t) = abar_t E_b / ((1 - abar_t) n_b)                      the closed form (F2t), of band b with n_b modes
    rho_b(t) = sqrt( snr_b(t) / (1 + snr_b(t)) )                    the correlation of x_t with x_0 that follows from it

Low frequencies are those up to a quarter of the highest along a side. Steps are those of the sampler, noisiest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from shapefirst.drawing import charts
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.families.noise import noise_to_signal
from shapefirst.findings.finding import Chart, Finding, Picture, Study, Summary, claim
from shapefirst.findings.tables import crossed, shown
from shapefirst.measure.intervals import SIGNED, Range, Rule, bootstrap, settled
from shapefirst.measure.spectrum import cutoff_of, pixels, split
from shapefirst.prompts import Prompt
from shapefirst.sampling.loop import Step, decode
from shapefirst.studies.bands import Trajectories, followed, joined
from shapefirst.studies.conditions import by_kind
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.dropping import steps_at
from shapefirst.studies.subject import Subject, part

#: Forward, share of the run: the high band sinks below the noise (SNR 1) before the low band does.
RULE_FORWARD: Final = Rule("above", 0.0)
#: Reverse, share of the run: the low band is final at least a tenth of the run (5 of 50 steps) before the high one. A
#: smaller lead would be an order, yet no "first the shape, then the detail".
RULE_REVERSE: Final = Rule("above", 0.1)
#: Mean distance between the correlation of the sampler's own x_t with x_0 and that which the closed form implies.
RULE_THEORY: Final = Rule("below", 0.1)

#: From here on a band counts as the final one.
CORRELATED: Final = 0.9
#: Shares of the run at which the predicted x_0 is decoded: ten, and the six of them that are shown.
LOOKS: Final = tuple(i / 10 for i in range(10))
SHOWN_LOOKS: Final = (0.0, 0.1, 0.2, 0.4, 0.6, 0.9)
SHOWN: Final = 3
BANDS: Final = ("low", "high")
STEP: Final = {"xlabel": "step (0 = noisiest)"}


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Runs with the text in all steps, followed step by step; their clean latents noised again."""
    steps, seeds = subject.steps, subject.seeds(len(prompts))
    subject.meter.expect(subject.cost() * len(prompts))
    looks = [step for step in steps_at(LOOKS, steps) if step < steps]
    embeddings = subject.encode(prompts)
    parts: list[Trajectories] = []
    previews: list[list[Image.Image]] = []
    times: list[float] = []
    for here in subject.batches(len(prompts)):
        times, abars, x0s, x_ts, decoded = [], [], [], [], {}
        for step in subject.steps_of(part(embeddings, here), seeds[here]):
            abar = _abar(step)
            times.append(step.t)
            abars.append(abar)
            x0, eps = (z.float().cpu() for z in (step.x0, step.eps))
            x0s.append(x0)
            # Some solvers hold x_t in another scale; this is the paper's with every one.
            x_ts.append(abar**0.5 * x0 + (1 - abar) ** 0.5 * eps)
            if step.index in looks:
                decoded[step.index] = decode(subject.pipe, step.x0)
            last = step
        final = decode(subject.pipe, last.x_next)
        noised_at = torch.tensor(abars, dtype=torch.float64)
        parts.append(followed(last.x_next.float().cpu(), x0s, x_ts, final, decoded, noised_at, seeds[here]))
        previews += [[decoded[at][i] for at in looks] for i in range(min(len(final), SHOWN - len(previews)))]
    return _finding(subject, prompts, joined(parts), times, looks, previews)


def _finding(
    subject: Subject,
    prompts: Sequence[Prompt],
    found: Trajectories,
    times: Sequence[float],
    looks: Sequence[int],
    previews: Sequence[Sequence[Image.Image]],
) -> Finding:
    steps = subject.steps
    above = [settled(found.clean.measured[..., b], 1.0) / steps for b in range(2)]
    back = [settled(found.of_x0[..., b], CORRELATED) / steps for b in range(2)]
    forward, reverse = above[1] - above[0], back[1] - back[0]
    of_steps = Range(0.0, float(steps))
    rows = [
        (
            f"{name} SNR above 1 from step",
            *(
                shown(bootstrap(settled(n.measured[..., b], 1.0), within=Range(0.0, float(n.measured.shape[1]))))
                for b in (0, 1)
            ),
        )
        for name, n in (("latents:", found.clean), ("images:", found.seen))
    ]
    rows.append(
        ("predicted x_0: final from step", *(shown(bootstrap(steps * values, within=of_steps)) for values in back))
    )
    rows.append(
        (
            "x_t: final from step",
            *(shown(bootstrap(settled(found.of_x_t[..., b], CORRELATED), within=of_steps)) for b in (0, 1)),
        )
    )
    return Finding(
        claims=(
            claim(
                "Noise drowns the high frequencies of the latents before the low ones.",
                paper="the low band is not corrupted until the end of the forward process",
                quantity="share of the steps between the two bands' SNR of 1",
                found=bootstrap(forward, within=SIGNED),
                rule=RULE_FORWARD,
                if_not="Latents of nearly white spectrum have no band that outlasts the other; the radial spectrum of "
                "the autoencoder's latents of photographs would tell.",
            ),
            claim(
                "The sampler settles the low frequencies first and the high ones last.",
                paper="the low band is recovered at the start of the reverse process, high frequencies come last",
                quantity=f"share of the steps by which the low band of predicted x_0 has r >= {CORRELATED:g} earlier",
                found=bootstrap(reverse, within=SIGNED),
                rule=RULE_REVERSE,
                if_not="In a small latent space the low quarter of the spectrum is few modes, layout and detail alike; "
                "the same run with larger latents, or the radial bands here, would tell.",
            ),
            claim(
                "The closed form for white noise describes the sampler's x_t as well, whose noise is predicted.",
                paper="the closed form follows from white noise (F2t)",
                quantity="|r - sqrt(SNR / (1 + SNR))|, r: correlation of x_t with x_0; mean over steps and bands",
                found=bootstrap(np.abs(found.of_x_t - found.implied).mean(axis=(1, 2)), within=Range(0.0, 2.0)),
                rule=RULE_THEORY,
                if_not="A solver without noise of its own carries x_T to x_0 by what is predicted, which need be "
                "neither white nor independent of x_0; a stochastic sampler on the same model would tell.",
            ),
        ),
        table=_table(subject, prompts, found, times, looks),
        summaries=(
            Summary(
                ("", "low band", "high band"),
                tuple(rows),
                f"Steps of {steps}, from 0; mean over prompts (95% interval).",
            ),
            by_kind(
                {"forward lead of the low band": forward, "reverse lead of the low band": reverse},
                prompts,
                "Leads in shares of the run.",
                within=SIGNED,
            ),
        ),
        charts=(_snr_chart(found), _norm_chart(found), _reverse_chart(found, looks), _radial_chart(found)),
        pictures=(_picture(prompts, looks, previews, steps),),
        method=f"{len(prompts)} runs of {steps} steps with text in all of them. Low frequencies reach up to a quarter "
        "of the highest along a side. Forward: the runs' own final latents (and, as a model of pixels would see "
        "them, their images) are noised with the scheduler's abar at every timestep, one draw of noise each; the SNR "
        "is the energy of the signal part over that of the noise in it. Reverse: correlation, over channels and "
        "modes, of a band of the predicted x_0 with that band of the final latents; each channel's mean is left out "
        "there, since all latents of a model share it. A band is final from the step on from which the correlation "
        f"stays at {CORRELATED:g} or above (ours). Images are looked at in {len(looks)} steps. The closed form for "
        "x_t takes its noise as independent of the picture; a deterministic sampler makes the picture from it.",
        evaluations=subject.cost(),
    )


def _table(
    subject: Subject, prompts: Sequence[Prompt], found: Trajectories, times: Sequence[float], looks: Sequence[int]
) -> dict[str, list[Any]]:
    """A row for each prompt, space, step and band; None where a space is not looked at in a step."""
    nothing = np.full(found.of_x0.shape, None, object)
    of_image = nothing.copy()
    of_image[:, looks] = found.of_image
    spaces = (found.clean, found.seen)
    return crossed(
        subject.about(prompts),
        {"space": ["latents", "images"]},
        {"step": range(len(times)), "timestep": times},
        {"band": BANDS},
        modes=np.stack([n.count for n in spaces]).astype(int)[:, None],
        energy_clean=np.stack([n.energy for n in spaces], axis=1)[:, :, None],
        energy_forward=np.stack([n.noised for n in spaces], axis=1),
        energy_reverse=np.stack([found.reverse, nothing], axis=1),
        snr=np.stack([n.measured for n in spaces], axis=1),
        snr_closed_form=np.stack([n.predicted for n in spaces], axis=1),
        correlation_x0=np.stack([found.of_x0, of_image], axis=1),
        correlation_x_t=np.stack([found.of_x_t, nothing], axis=1),
    )


def _snr_chart(found: Trajectories) -> Chart:
    n, steps = found.clean.measured.shape[:2]
    panels = [
        Panel(
            range(steps),
            {f"{band}, measured": _log(of.measured[..., b]) for b, band in enumerate(BANDS)},
            {"title": f"SNR of a band, {space}", **STEP, "ylabel": "log10 of signal over noise"},
            {"closed form": _log(of.predicted).mean(0)},
            level=0,
        )
        for space, of in (("latents", found.clean), ("images", found.seen))
    ]
    low, high = (float(np.mean(settled(found.clean.measured[..., b], 1.0))) for b in (0, 1))
    return curves(
        "snr",
        panels,
        "Forward process, to be read from right to left: signal-to-noise of both bands; mean and 95% band, "
        f"n = {n} prompts.",
        f"In the latents the low band stands above the noise from step {low:.0f} of {steps} on, the high band from "
        f"step {high:.0f}; measured and closed form are {found.clean.decades.mean():.2f} decades apart on average.",
    )


def _norm_chart(found: Trajectories) -> Chart:
    clean = found.clean
    n, steps = clean.measured.shape[:2]
    norms = np.sqrt(np.stack([clean.noised, found.reverse, clean.expected]))
    ratio, per_mode = norms[..., 0] / norms[..., 1], norms / np.sqrt(clean.count)
    ways = ("forward", "reverse")
    of_bands = {f"{band}, {way}": per_mode[w, ..., b] for b, band in enumerate(BANDS) for w, way in enumerate(ways)}
    panels = [
        Panel(
            range(steps),
            of_bands,
            {"title": "Norm of a band of x_t", **STEP, "ylabel": "root of energy per mode"},
            {"forward, closed form": per_mode[2].mean(0)},
        ),
        Panel(
            range(steps),
            {way: ratio[w] for w, way in enumerate(ways)},
            {"title": "Low over high band", **STEP, "ylabel": "ratio of norms"},
            {"forward, closed form": ratio[2].mean(0)},
        ),
    ]
    first, last = ratio[1].mean(0)[[0, -1]]
    return curves(
        "norms",
        panels,
        f"Norms of the low and the high band of latents; mean and 95% band, n = {n} prompts.",
        f"On the way back the norm of the low band is {first:.2f} times the high band's at first, {last:.2f} at last.",
    )


def _reverse_chart(found: Trajectories, looks: Sequence[int]) -> Chart:
    n, steps = found.of_x0.shape[:2]

    def panel(space: str, x: Sequence[int], of: Mapping[str, np.ndarray], **more: Any) -> Panel:
        drawn = {f"{band}, {what}": r[..., b] for what, r in of.items() for b, band in enumerate(BANDS)}
        labels = {"title": f"Reverse process, {space}", **STEP, "ylabel": "correlation with the end"}
        return Panel(x, drawn, labels, level=CORRELATED, **more)

    latents = {"predicted x0": found.of_x0, "x_t": found.of_x_t}
    panels = [
        panel("latents", range(steps), latents, dotted={"x_t, closed form": found.implied.mean(0)}),
        panel("images", looks, {"predicted x0": found.of_image}),
    ]
    low, high = (float(settled(found.of_x0[..., b], CORRELATED).mean()) for b in (0, 1))
    return curves(
        "reverse",
        panels,
        "How far each band has come: correlation with the same band of the final latents and images; mean and 95% "
        f"band, n = {n} prompts.",
        f"The low band of the predicted x_0 stays above a correlation of {CORRELATED:g} from step {low:.0f} of {steps} "
        f"on, the high band from step {high:.0f}.",
    )


def _radial_chart(found: Trajectories) -> Chart:
    n, steps, bands = found.of_radial.shape
    pictures = (
        ("Forward: log10 SNR", _log(found.radial.measured).mean(0), "cividis", (-2, 2)),
        ("Reverse: correlation of predicted x0", found.of_radial.mean(0), "cividis", (0, 1)),
    )
    closed = _log(found.radial.predicted).mean(0)
    with charts.figure(2) as (drawn, axes):
        for axis, (title, values, colours, (low, high)) in zip(axes, pictures, strict=True):
            shown_as: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": colours, "vmin": low, "vmax": high}
            drawn.colorbar(axis.imshow(values.T, **shown_as), ax=axis)
            if closed.min() < 0 < closed.max():
                axis.contour(closed.T, levels=[0], colors="white", linestyles=":")
            axis.grid(False)
            axis.set(title=title, **STEP, ylabel="frequency, cycles per side")
        image = charts.svg(drawn)
    first, last = (settled(found.of_radial[..., b], CORRELATED).mean() for b in (min(1, bands - 1), bands - 1))
    return Chart(
        "radial",
        image,
        "Every frequency of the latents by itself; the dotted line is where the closed form puts an SNR of 1; mean of "
        f"n = {n} prompts.",
        f"The lowest frequency above the mean is final from step {first:.0f} of {steps} on, the highest from step "
        f"{last:.0f}.",
    )


def _picture(
    prompts: Sequence[Prompt], looks: Sequence[int], previews: Sequence[Sequence[Image.Image]], steps: int
) -> Picture:
    chosen = [at for at in looks if at in steps_at(SHOWN_LOOKS, steps)]
    rows, titles = [], []
    for prompt, images in zip(prompts, previews, strict=False):
        seen = pixels([images[looks.index(at)] for at in chosen])
        cutoff = cutoff_of(*seen.shape[-2:])
        for name, values in zip(("low frequencies", "high frequencies"), split(seen, cutoff), strict=True):
            rows.append([Cell(image) for image in _images(values)])
            titles.append(f"{prompt.text}\n{name}")
    return Picture(
        "bands",
        contact_sheet(rows, column_titles=[f"step {at}" for at in chosen], row_titles=titles, picture_width=112),
        f"Predicted x_0 of the first {len(previews)} prompts, decoded and split in two bands; the high one on grey.",
        "Two rows for each prompt, from the first steps on the left to the last: its low and its high frequencies.",
    )


def _images(values: torch.Tensor) -> list[Image.Image]:
    """(B, 3, H, W) about 0 -> images, 0 being grey."""
    scaled = ((values + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in scaled]


def _log(ratio: np.ndarray) -> np.ndarray:
    """log10, with a floor for a band without any signal."""
    return np.log10(np.maximum(ratio, 1e-12))


def _abar(step: Step) -> float:
    """The share of the signal in a step's x_t, abar_t; a flow's x_t is taken at the variance that it has with that."""
    return 1 / (1 + noise_to_signal(step.solver, step.t) ** 2)


STUDY: Final = Study(
    name="f2",
    title="Why the shape comes first",
    question="Which frequencies does noise drown last, and which does the sampler bring back first?",
    paper="The low frequencies are corrupted last and so recovered first; the high ones come in the last steps.",
    needs="prompts",
    count=16,
    cost=17,
    run=run,
)
