"""Write docs/findings.md with its pictures, and README's short table: what stored studies of one or more models found.

    shapefirst study all --model pocket --model pocket-dit --out out/studies
    python benchmarks/findings_page.py out/studies/pocket out/studies/pocket-dit    (seconds)

The results are kept in ``benchmarks/results/studies``, their pictures in 256 colours: a third of the bytes, in a
repository that keeps every version. From there the page is made; without folders that is all, and it is the same page.
Of each study the first chart and the first sheet of pictures are shown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from shapefirst.drawing.notation import label, reach, rule_in_short
from shapefirst.errors import ShapefirstError
from shapefirst.files import png_of, save_text
from shapefirst.findings.comparison import Compared, compared
from shapefirst.findings.discovery import RATE, standing
from shapefirst.findings.finding import Claim
from shapefirst.findings.order import STUDIES
from shapefirst.findings.storage import FACTS, Stored, load_all
from shapefirst.measure.intervals import Verdict

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results" / "studies"
PAGE: Final = ROOT / "docs" / "findings.md"

_HEAD: Final = """# Findings

What the [studies](studies.md) found. A claim replicates if its whole 95% interval over prompts lies on the side of a
threshold that was written down before the run; it is inconclusive if the interval covers the threshold. Some rules also
say what effect is too small to speak of, a twentieth: if the interval covers the threshold and ends short of that, the
claim does not replicate. Those rules were written after a first run, of seed 0, and are decided by another, of seed 1.
X1 on pocket was left open by 48 of those pairs, and was run once more with as many as it said would tell. Many runs
have more prompts than a study takes by itself: `--prompts` and `--seed` are as is said below of each.
Claims that are not the paper's are marked as our own.
"""
_OF_POCKET: Final = """pocket's text encoder was trained to say at every position of the padding what the picture shows:
that its padding holds the prompt is a design, and no discovery. pocket-dit's was trained on sentences alone and frozen,
and its padding is masked ([the two](pocket.md)). Other models may answer otherwise.
"""
_BEGINS, _ENDS = "<!-- from benchmarks/findings_page.py -->", "<!-- so far -->"
_TAIL: Final = """
## Make this page from your own run

```sh
shapefirst study all --model pocket --model pocket-dit --out out/studies
python benchmarks/findings_page.py out/studies/pocket out/studies/pocket-dit
```

The script writes the page anew: all claims, intervals and verdicts side by side, a chart and a sheet of pictures of
each study.
"""


def keep(folder: Path, results: Path = RESULTS) -> Path:
    """A copy of the stored studies of one model, with pictures in 256 colours, in place of what was kept of that model.

    Raises:
        ShapefirstError: The folder holds no finding, or one is damaged.
    """
    stored = _loaded(folder)
    kept = results / _folder_of(model_of(stored))
    shutil.rmtree(kept, ignore_errors=True)
    for study in stored:
        copy = Path(shutil.copytree(folder / study.name, kept / study.name))
        facts = json.loads((copy / FACTS).read_text(encoding="utf-8"))
        for file in copy.glob("*.png"):
            with Image.open(file) as image:
                few = png_of(image.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG), {})
            file.write_bytes(few)
            facts["files"][file.name] = hashlib.sha256(few).hexdigest()
        save_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", copy / FACTS)
    return kept


def model_of(stored: Sequence[Stored]) -> str:
    return stored[0].setting.model


def _folder_of(model: str) -> str:
    return model.replace("/", "-")


def _loaded(folder: Path) -> list[Stored]:
    stored = [study for study in load_all(folder) if study.name in STUDIES]
    if not stored:
        raise ShapefirstError(f"There are no stored findings in {str(folder)!r}: run shapefirst study all first.")
    return stored


def write(folders: Sequence[Path], page: Path = PAGE, readme: Path | None = None) -> Path:
    """The page, and the pictures beside it in a folder of its name.

    Args:
        folders: Of one model each, as `shapefirst study --out` wrote them.
        page: Where it goes.
        readme: Where the short table goes, between the two remarks that are there for it.

    Raises:
        ShapefirstError: A folder holds no finding, two are of one model, one is damaged, or a remark is not there.
    """
    models: dict[str, dict[str, Stored]] = {}
    for folder in folders:
        stored = _loaded(folder)
        if (name := model_of(stored)) in models:
            raise ShapefirstError(f"Two folders hold findings of {name}: give one of each model.")
        models[name] = {study.name: study for study in stored}
    before, begins, rest = ("", "", "") if readme is None else readme.read_text(encoding="utf-8").partition(_BEGINS)
    if readme is not None and not (begins and _ENDS in rest):
        raise ShapefirstError(f"{str(readme)!r} has no place for the table: give it {_BEGINS!r} and, below, {_ENDS!r}.")
    rows = list(compared(studies.values() for studies in models.values()))
    pictures = page.with_suffix("")
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    save_text("\n".join(_page(models, rows, pictures)), page)
    if readme is not None:
        save_text("\n".join([before + _BEGINS, *_short(models, rows), _ENDS]) + rest.partition(_ENDS)[2], readme)
    return page


def _short(models: Mapping[str, Mapping[str, Stored]], rows: Sequence[Compared]) -> Iterator[str]:
    """The first claim of each of the paper's findings, and how many of all claims replicate."""
    yield _row("the paper says", *(f"on {_text(model)}" for model in models))
    yield "|" + "---|" * (1 + len(models))
    for name in (name for name in STUDIES if name.startswith("f")):
        row = next((row for row in rows if row.study.name == name), None)
        if row is not None:
            answers = (_answer(*answer) for answer in zip(row.claims, row.reasons, strict=True))
            yield _row(_text(row.statement), *answers)
    counts = (
        Counter(claim.verdict for study in studies.values() for claim in study.claims) for studies in models.values()
    )
    yield _row("of all claims", *(f"{found['replicates']} of {found.total()} replicate" for found in counts))


def _page(models: Mapping[str, Mapping[str, Stored]], rows: Sequence[Compared], pictures: Path) -> Iterator[str]:
    yield _HEAD
    if "pocket" in models:
        yield _OF_POCKET
    for model, studies in models.items():
        yield f"**{_text(model)}**: {_setting(list(studies.values()))}\n"
    together = len(models) > 1
    if together:
        times = Counter(row.together for row in rows)
        yield f"Of {len(rows)} claims they agree in {times['agree']}, differ in {times['differ']}; the rest is open.\n"
    yield _row("study", "claim", *models, *["together"] * together)
    yield "|" + "---|" * (2 + len(models) + together)
    for row in rows:
        name = row.study.name
        answers = [_answer(*answer) for answer in zip(row.claims, row.reasons, strict=True)]
        yield _row(f"[{label(name)}](#{name})", _text(row.statement), *answers, *[row.together] * together)
    for name in dict.fromkeys(row.study.name for row in rows):
        of_models = [(model, studies[name]) for model, studies in models.items() if name in studies]
        first = of_models[0][1]
        yield f"\n## {label(name)}: {_text(first.title)} {{ #{name} }}\n"
        yield f"{_text(first.question)} **The paper:** {_text(first.paper)}\n"
        for model, study in of_models:
            yield from _study(f"{model}, " if len(models) > 1 else "", study, pictures / _folder_of(model))
    yield _TAIL


def _setting(stored: Sequence[Stored]) -> str:
    s = stored[0].setting
    found = Counter(claim.verdict for study in stored for claim in study.claims)
    counted: dict[Verdict, str] = {
        "replicates": "replicate",
        "does not replicate": "do not replicate",
        "inconclusive": "are inconclusive",
    }
    verdicts = ", ".join(f"{found[verdict]} {words}" for verdict, words in counted.items())
    quick = "**A short run of few prompts, to see it work rather than to learn from it.** " if s.quick else ""
    stands = sum(standing([claim for study in stored for claim in study.claims]))
    return (
        f"{quick}{s.steps} steps of {s.sampler}, w = {s.guidance_scale:g}, {_text(s.machine)}. "
        f"Of {found.total()} claims {verdicts}. "
        f"{stands} of the verdicts stand at a false discovery rate of {RATE:.0%}."
    )


def _answer(claim: Claim | None, reason: str) -> str:
    return claim.verdict if claim else "does not apply" if reason else "–"


def _study(whose: str, study: Stored, pictures: Path) -> Iterator[str]:
    s = study.setting
    setting = f"n = {s.count}, seed {s.seed}, {s.steps} steps of {s.sampler}:"
    yield f"{whose}{study.reason or setting}\n"
    if study.claims:
        yield _row("claim", "the paper", "here (95% interval)", "rule", "verdict")
        yield "|---|---|---|---|---|"
    for claim in study.claims:
        paper = ("our own claim: " if claim.is_own else "") + claim.paper
        verdict = f"{claim.verdict}: {claim.reason}" if claim.reason else claim.verdict
        yield _row(_text(claim.statement), _text(paper), _measured(claim), rule_in_short(claim.rule), _text(verdict))
    yield ""
    for claim in study.claims:
        if claim.hypothesis:
            yield f"- *{_text(claim.statement)}* {_text(claim.hypothesis)}"
    yield ""
    shown = [(chart.alt, chart.caption, f"{chart.name}.svg", chart.svg.encode()) for chart in study.charts[:1]]
    shown += [(one.alt, one.caption, f"{one.name}.png", one.png) for one in study.pictures[:1]]
    for alt, caption, name, content in shown:
        pictures.mkdir(exist_ok=True)
        file = pictures / re.sub(r"[^\w.-]", "-", f"{study.name}-{name}")
        file.write_bytes(content)
        yield f"![{_text(alt)}](findings/{pictures.name}/{file.name})\n\n*{_text(caption)}*\n"


def _measured(claim: Claim) -> str:
    estimate, interval = reach(claim.found)
    return f"**{estimate}** ({interval}), n = {claim.found.n}: {_text(claim.quantity)}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """As Markdown shows it in a line, code between backticks left alone."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*\[\]<>|])", r"\\\1", part) for part in parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="of one model each, to be kept first")
    for one in parser.parse_args().folders:
        keep(one)
    print(write(sorted(path for path in RESULTS.iterdir() if path.is_dir()), readme=ROOT / "README.md"))
