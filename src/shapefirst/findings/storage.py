"""Findings on disk: a folder for each study, whole or not there, from which alone the report is made.

    OUT/f4/finding.json        the study's facts, its setting, claims, summaries, captions; digests of the other files
           table.parquet       the tidy table
           chart-NAME.svg      plots
           picture-NAME.png    images

Reading needs neither torch nor matplotlib nor pyarrow nor the study's module.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from shapefirst.checks import fitted, json_of
from shapefirst.errors import ShapefirstError, imported, shortened
from shapefirst.files import Names, content_of, slug
from shapefirst.findings.finding import Chart, Claim, Finding, Question, Summary
from shapefirst.findings.folder import placed, recover, replacing
from shapefirst.findings.order import STUDIES
from shapefirst.signatures import Name, guarded

__all__ = [
    "Stored",
    "StoredPicture",
    "StudySetting",
    "load_all",
    "load_stored",
    "mismatch",
    "recover_all",
    "save",
    "save_inapplicable",
]

#: Raised when an older shapefirst could not read a finding.json, or when its findings do not go beside new ones.
FORMAT: Final = 1
FACTS: Final = "finding.json"
TABLE: Final = "table.parquet"


@dataclass(frozen=True)
class StudySetting:
    """What a study was run with.

    Attributes:
        model: The model's name, id or folder.
        fingerprint: Of its weights.
        version: shapefirst's, to be told; what goes together is a matter of the format.
        seed: Image i has the seed ``seed + i``.
        steps: Denoising steps N.
        guidance_scale: w.
        sampler: Its name.
        quick: Whether it was the short run.
        count: Number of prompts or pairs.
        prompts: Digest of them, and of the pictures that go with them.
        command: Repeats the study.
        machine: What it ran on, in words.
        seconds: How long it took.
        words: What was run, where number, seeds, sampler, steps and scale above are not all of it; else "".
    """

    model: str
    fingerprint: str
    version: str
    seed: int
    steps: int
    guidance_scale: float
    sampler: str
    quick: bool
    count: int
    prompts: str
    command: str
    machine: str
    seconds: float
    words: str = ""


@dataclass(frozen=True)
class StoredPicture:
    """A picture as PNG, ``width`` x ``height`` pixels, with its caption and what it shows in words."""

    name: str
    png: bytes
    width: int
    height: int
    caption: str
    alt: str


@dataclass(frozen=True)
class _Told:
    """What is the same of a finding in its file and in memory."""

    name: str
    title: str
    question: str
    paper: str
    needs: Literal["prompts", "pairs"]
    setting: StudySetting
    reason: str = ""
    claims: tuple[Claim, ...] = ()
    summaries: tuple[Summary, ...] = ()
    method: str = ""
    evaluations: float = 0
    evaluations_apart: float = 0


@dataclass(frozen=True)
class Stored(_Told):
    """A study with what it found, as read from its folder. Fields as in ``Study``, ``Finding`` and ``StudySetting``.

    ``reason`` says why the study does not apply to the model; it is empty where there is a finding.
    """

    charts: tuple[Chart, ...] = ()
    pictures: tuple[StoredPicture, ...] = ()


@dataclass(frozen=True)
class _ChartFacts:
    name: str
    file: str
    caption: str
    alt: str


@dataclass(frozen=True)
class _PictureFacts(_ChartFacts):
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class _Facts(_Told):
    """What finding.json says."""

    format: int
    files: Mapping[str, str]
    charts: tuple[_ChartFacts, ...] = ()
    pictures: tuple[_PictureFacts, ...] = ()


def save(out: Path, question: Question, finding: Finding, setting: StudySetting) -> Path:
    """Writes the finding to the study's folder under ``out``, in place of an earlier one.

    Returns:
        The folder.

    Raises:
        ShapefirstError: It cannot be written, pyarrow is missing, or the table's columns do not make a table.
    """
    names = Names()
    files = {TABLE: _parquet(finding.table, question, setting)}
    charts, pictures = [], []
    for chart in finding.charts:
        file = names.unique(f"chart-{slug(chart.name)}") + ".svg"
        files[file] = chart.svg.encode()
        charts.append({"name": chart.name, "file": file, "caption": chart.caption, "alt": chart.alt})
    for picture in finding.pictures:
        file = names.unique(f"picture-{slug(picture.name)}") + ".png"
        png = io.BytesIO()
        picture.image.save(png, format="PNG", optimize=True)
        files[file] = png.getvalue()
        size = {"width": picture.image.width, "height": picture.image.height}
        pictures.append({"name": picture.name, "file": file, **size, "caption": picture.caption, "alt": picture.alt})
    facts = {
        "claims": [_plain(asdict(claim)) for claim in finding.claims],
        "summaries": [_plain(asdict(summary)) for summary in finding.summaries],
        "charts": charts,
        "pictures": pictures,
        "method": finding.method,
        "evaluations": _plain(finding.evaluations),
        "evaluations_apart": _plain(finding.evaluations_apart),
    }
    return _write(out, question, setting, facts, files)


def save_inapplicable(out: Path, question: Question, reason: str, setting: StudySetting) -> Path:
    """Writes, in place of an earlier finding, why the study does not apply to the model; returns the folder."""
    return _write(out, question, setting, {"reason": reason or "It does not apply to this model."}, {})


@guarded
def load_stored(out: Path, name: Name) -> Stored | None:
    """What is stored of the study ``name`` under ``out``, or None where nothing is.

    Raises:
        ShapefirstError: What is there is damaged, or was not written by this program.
    """
    folder = placed(out / name)
    if not folder.exists():
        return None
    path = folder / FACTS
    _check_ours(folder)
    with _readable(path):
        told = json_of(content_of(path))
        if isinstance(told, dict) and told.get("format", FORMAT) != FORMAT:
            raise ValueError(f"its format is {shortened(repr(told['format']))}, and this version reads {FORMAT}")
        facts = fitted(_Facts, told, "")
        if facts.name != name:
            raise ValueError(f"it is of the study {shortened(facts.name)!r}")
        files = {file: _contents(folder / Path(file).name, digest) for file, digest in facts.files.items()}
        return Stored(
            **{one.name: getattr(facts, one.name) for one in fields(_Told)},
            charts=tuple(Chart(c.name, files[c.file].decode(), c.caption, c.alt) for c in facts.charts),
            pictures=tuple(
                StoredPicture(p.name, files[p.file], p.width, p.height, p.caption, p.alt) for p in facts.pictures
            ),
        )


@guarded
def recover_all(out: Path) -> None:
    """Puts in place what killed studies had stored under ``out`` and not yet named. A lock has to keep others out."""
    try:
        for name in (*STUDIES, *_of_ones_own(out)):
            recover(out / name)
    except OSError as error:
        raise ShapefirstError(f"Cannot write to {str(out)!r}: {error.strerror or error}.") from error


@guarded
def load_all(out: Path) -> list[Stored]:
    """What is stored under ``out``, in the order of ``STUDIES``, then studies of one's own; all else is ignored.

    Raises:
        ShapefirstError: As ``load_stored``.
    """
    names = (*STUDIES, *_of_ones_own(out), "sweep")  # `sweep report` adds one that is no study
    return [stored for name in names if (stored := load_stored(out, name)) is not None]


def _of_ones_own(out: Path) -> list[str]:
    """The names of studies under ``out`` that are none of ``STUDIES``."""
    return sorted(
        facts.parent.name for facts in out.glob(f"[!.]*/{FACTS}") if facts.parent.name not in (*STUDIES, "sweep")
    )


@guarded
def mismatch(stored: StudySetting, wanted: StudySetting) -> str:
    """In which respects a stored result is not one of the wanted run, in words; "" where it is.

    Neither machine, version, time and command matter, nor ``quick``, which shows in the numbers of prompts and steps.
    """
    values = {
        "model": "model",
        "seed": "seed",
        "steps": "steps",
        "guidance_scale": "guidance scale",
        "sampler": "sampler",
        "count": "number of prompts",
        "words": "comparison",
    }
    differences = [
        f"{words} {shortened(str(getattr(stored, key)) or 'none')} instead of "
        f"{shortened(str(getattr(wanted, key)) or 'none')}"
        for key, words in values.items()
        if getattr(stored, key) != getattr(wanted, key)
    ]
    # Where the model or the number differs, that the weights and the prompts do too goes without saying.
    if stored.model == wanted.model and stored.fingerprint != wanted.fingerprint:
        differences.append("other weights of the same model")
    if stored.count == wanted.count and stored.prompts != wanted.prompts:
        differences.append("other prompts or pictures")
    return ", ".join(differences)


def _write(
    out: Path, question: Question, setting: StudySetting, facts: Mapping[str, Any], files: Mapping[str, bytes]
) -> Path:
    about = {key: getattr(question, key) for key in ("name", "title", "question", "paper", "needs")}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    whole = {"format": FORMAT, **about, "setting": _plain(asdict(setting)), **facts, "files": digests}
    _check_ours(out / question.name)
    with replacing(out / question.name) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    return out / question.name


def _check_ours(folder: Path) -> None:
    """A folder of the study's name that holds something else is neither read nor replaced."""
    if folder.exists() and not (folder / FACTS).is_file():
        raise ShapefirstError(f"{str(folder)!r} holds no {FACTS}: move it away, or choose another output folder.")


def _parquet(table: Mapping[str, Sequence[Any]], question: Question, setting: StudySetting) -> bytes:
    """The table as Parquet, with the setting in its metadata so that it is not lost when the file is copied."""
    imported("pyarrow", "Tables are stored")
    import pyarrow.parquet

    buffer = io.BytesIO()
    try:
        # list() because of numpy columns of strings, which pyarrow does not take
        columns = {name: pyarrow.array(list(values)) for name, values in table.items()}
        built = pyarrow.table(columns)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise ShapefirstError(f"The columns of {question.name} do not make a table: {error}.") from error
    about = {"shapefirst": json.dumps({"study": question.name, **_plain(asdict(setting))}, ensure_ascii=False)}
    pyarrow.parquet.write_table(built.replace_schema_metadata(about), buffer, compression="zstd")
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """As JSON knows it: numpy's numbers as Python's, and what JSON has no number for (nan, inf) as text."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _contents(path: Path, digest: str) -> bytes:
    content = content_of(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path.name} is not as it was written")
    return content


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever is wrong with the files of a finding becomes one sentence with the remedy."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError):
            what = f"{Path(str(error.filename or path)).name!r}: {error.strerror or error}"
        else:
            what = f"no entry {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ShapefirstError(
            f"Cannot read the stored finding {str(path)!r} ({shortened(what, 200)}): delete the folder "
            f"{str(path.parent)!r} and run the study again."
        ) from error
