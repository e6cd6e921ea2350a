"""README, docs and examples say what is so: their code runs, their commands are read, and their pages are built."""

from __future__ import annotations

import ast
import inspect
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import stand_ins
import typer
import typer.main
from PIL import Image
from typer.core import TyperGroup

import shapefirst
from shapefirst.cli.app import app
from shapefirst.errors import ShapefirstError
from shapefirst.families import FAMILIES
from shapefirst.findings import storage
from shapefirst.findings.finding import Chart, Finding, Picture, Question, claim
from shapefirst.findings.storage import StudySetting
from shapefirst.measure.intervals import Rule, bootstrap
from shapefirst.models import load
from shapefirst.policies.file import PolicyFile, model_digest, sampler_digest, write_policy
from shapefirst.policies.solver import Solver

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>.+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
#: What a block may need so that it is not run.
REASONS = (
    "needs a modular pipeline",
    "needs results of studies",
)


class Fenced(NamedTuple):
    language: str
    text: str
    why: str | None
    line: int


def blocks(page: Path, language: str) -> list[Fenced]:
    text = page.read_text(encoding="utf-8")
    found = (
        Fenced(m["language"], m["text"], m["why"], text.count("\n", 0, m.start("text"))) for m in FENCE.finditer(text)
    )
    return [one for one in found if one.language == language]


def test_what_is_not_run_says_why():
    said = {one.why for page in PAGES for language in ("python", "sh") for one in blocks(page, language)}
    assert said == {None, *REASONS}


def named(path: Path) -> str:
    return path.name


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    stand_ins.put_in(monkeypatch)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=named)
def test_the_code_of_a_page_runs(page, capsys):
    """From top to bottom, as one program; what it registers is gone afterwards. It prints the strips that it shows."""
    names: dict[str, Any] = {"__name__": "docs"}
    if '.json")' in page.read_text(encoding="utf-8"):
        tuned_policies()
    with patch.dict(FAMILIES):
        for block in blocks(page, "python"):
            code = compile("\n" * block.line + block.text, str(page), "exec")
            if block.why is None:
                exec(code, names)
    shown = re.findall(r"^print\(.*\)  # ([#nNtT.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall(r"^[#nNtT.]+$", capsys.readouterr().out, re.MULTILINE) == shown


def test_the_example_of_guide_runs_and_stands_before_its_arguments(capsys):
    said = inspect.getdoc(shapefirst.guide) or ""
    before = said[: said.index("\nArgs:")]
    assert before.index("\n\n") < 240
    code = dedent("\n".join(re.findall(r"^    .*", before, re.MULTILINE)))
    exec(code, {"guide": shapefirst.guide, "pipe": shapefirst.load("pocket")})
    assert capsys.readouterr().out == "40% of the denoiser's evaluations saved\n"


def test_large_models_are_loaded_in_half_precision_on_every_page():
    """Or a small card is out of memory, and the `fp16` files are turned into float32."""
    for file in (*PAGES, *EXAMPLES.glob("*.py")):
        for call in re.findall(
            r"from_pretrained\((.*?)\)$", file.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            assert ("fp16" in call) == ("torch_dtype=torch.float16" in call), file


def test_every_extra_of_a_user_is_named_at_the_start():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    extras = {one.partition("extra == ")[2].strip("'\" ") for one in requires("shapefirst") or () if "extra ==" in one}
    assert [
        one for one in sorted(extras - {"bench", "docs", "dev"}) if not re.search(rf"`{one}`|\[{one}\]", text)
    ] == []


def test_the_best_method_of_each_cost_stands_first():
    rows = re.findall(r"^\| (\d+) \| (.+?) \| ([\d.]+) ", (ROOT / "docs" / "best.md").read_text(), re.MULTILINE)
    assert len(rows) == 18
    assert rows == sorted(rows, key=lambda row: (int(row[0]), float(row[2])))
    assert not any("**" in method for _, method, _ in rows)


def tuned_policies() -> None:
    """The files of the pages' `tune`: another solver in 15 steps that stands for 25, of both goals."""
    pipe = load("pocket", sampler="dpm-solver-karras")
    solver = Solver.like(pipe.scheduler)
    for file, goal in (("policy.json", "keep"), ("best.json", "best")):
        tuned = PolicyFile(
            *("pocket", model_digest(pipe), type(pipe.scheduler).__name__, sampler_digest(pipe.scheduler)),
            *(4.0, 15, tuple(range(15)), "neither", 0),
            measured={"full guidance at steps": 25},
            goal=goal,
            solver=solver,
        )
        write_policy(tuned, Path(file))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=named)
def test_the_commands_of_a_page_are_read(page):
    """Each line of a shell is a command of ours with options that it has, a target of the Makefile, or pip's."""
    make = (ROOT / "Makefile").read_text()
    for block in (one for one in blocks(page, "sh") if one.why is None):
        for line in block.text.splitlines():
            for words in commands(line):
                if words[0] == "shapefirst":
                    read(words[1:])
                elif words[0] == "make":
                    assert re.search(rf"^{words[1]}:", make, re.MULTILINE), line
                else:
                    assert words[0] in ("pip", "echo", "python", "curl"), line


def commands(line: str) -> Iterator[list[str]]:
    """The words of a line's commands, without comments."""
    command: list[str] = []
    for word in [*shlex.split(line, comments=True), "|"]:
        if word != "|":
            command.append(word)
        elif command:
            yield command
            command = []


def read(words: list[str]) -> None:
    """Raises what typer raises where a command does not know them. Nothing is run."""
    command = typer.main.get_command(app)
    while isinstance(command, TyperGroup):
        name, *rest = words
        if name.startswith("-"):
            return
        command, words = command.commands[name], rest
    if "--help" not in words:
        command.make_context(command.name, list(words))


def test_an_option_that_there_is_not_is_found_out():
    with pytest.raises(typer.TyperException, match="No such option"):
        read(["generate", "a red car", "--text-step", "5"])


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") < 100
    links = re.findall(r"\]\(([^)#]+)", text)
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()] == []


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pictures"),
    [("sdxl_offload", ["budget.png", "stock.png"]), ("sd3", ["sd3-0.png", "sd3-1.png"]), ("video", ["boat.gif"])],
)
def test_an_example(name, pictures, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert sorted(path.name for path in Path.cwd().iterdir()) == pictures
    said = capsys.readouterr().out
    assert "evaluations" in said
    assert not re.search(r"\d s\b", said)  # of single passes, the first one cold


def test_the_server_draws_for_many_at_once_and_refuses_what_it_cannot():
    found = runpy.run_path(str(EXAMPLES / "server.py"))
    pipe = found["load"]("pocket")
    pipe.set_progress_bar_config(disable=True)
    server = found["server"](found["Worker"](pipe, steps=12), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def asked(query: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/?{query}", timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    try:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(asked, ["prompt=a+red+car&seed=1", "prompt=a+blue+key", "prompt=a+red+car&seed=1"]))
        assert [status for status, _ in answers] == [200] * 3
        assert answers[0] == answers[2] != answers[1]
        assert asked("prompt=")[0] == asked("prompt=a&seed=-1")[0] == asked(f"prompt={'a' * 501}")[0] == 400
    finally:
        server.shutdown()
        server.server_close()


def test_the_notebook_runs():
    """In half of its steps, which takes half of the time."""
    text = (EXAMPLES / "pocket.ipynb").read_text(encoding="utf-8")
    assert "STEPS, W = 25," in text
    cells = json.loads(text.replace("STEPS, W = 25,", "STEPS, W = 12,"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert names["evaluations"].saved > 0.25


def test_every_example_is_named_on_its_page():
    page = (ROOT / "docs" / "examples.md").read_text()
    assert all(f"../examples/{path.name})" in page for path in EXAMPLES.iterdir() if path.is_file())


# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in strict mode: a link or an anchor that leads nowhere is an error."""
    out = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
        "-d",
        str(out),
    ]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return out


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site):
    for page in PAGES[1:]:
        text = (site / f"{page.stem}.html").read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?([^\" >]+)|<link[^>]*\shref=\"?([^\" >]+)", text
        )
        assert [url for pair in loaded for url in pair if url.startswith(("http", "//"))] == []


def test_names_in_tables_break_between_their_words_on_a_phone(site):
    page = (site / "pipelines.html").read_text(encoding="utf-8")
    assert "<code>Animate<wbr>Diff<wbr>Control<wbr>Net<wbr>Pipeline</code>" in page
    assert not re.findall(r"<td[^>]*><code>\w{24,}</code></td>", page)


def test_the_reference_has_every_public_name(site):
    content = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(content[content.index(b"zlib.\n") + 6 :]).decode().splitlines()
    told = {line.split(" ")[0] for line in lines}
    wanted = {f"shapefirst.{name}" for name in shapefirst.__all__ if not name.startswith("_")}
    for file in (ROOT / "src" / "shapefirst").rglob("*.py"):
        parts = file.relative_to(ROOT / "src").with_suffix("").parts
        if parts[1] not in ("cli", "training", "__main__", "__init__") and file.name != "__init__.py":
            wanted |= {f"{'.'.join(parts)}.{name}" for name in public_names(file)}
    assert len(wanted) > 400
    assert sorted(wanted - told) == []


def public_names(file: Path) -> list[str]:
    """What a module's `__all__` names of what it defines itself."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    (names,) = [
        ast.literal_eval(n.value)
        for n in body
        if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"
    ] or [[]]
    own = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return [name for name in names if name in own]


def test_the_findings_are_written_from_stored_studies(tmp_path, monkeypatch):
    """Two models, one of which a study does not apply to; what they say is no markup."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from findings_page import keep, write

    setting = StudySetting("pocket", "abc", "1.0", 0, 50, 4.0, "ddim", False, 8, "", "", "a machine", 60.0)
    asked = Question("f6", "When [it] ends", "Does a|b end?", "It *does*.", "prompts")
    found = claim(
        "It ends.", paper="-", quantity="x_0 | y", found=bootstrap([1.0, 2.0]), rule=Rule("above", 0), if_not="Why."
    )
    chart, picture = (
        Chart("l1", "<svg></svg>", "A chart.", "a line"),
        Picture("all", Image.new("RGB", (8, 8)), "Some.", "a car"),
    )
    finding = Finding((found,), {"x": [1.0]}, charts=(chart,), pictures=(picture,))
    storage.save(tmp_path / "pocket", asked, finding, setting)
    storage.save_inapplicable(tmp_path / "other", asked, "It has no [EOS].", replace(setting, model="an/other"))
    text = write([tmp_path / "pocket", tmp_path / "other"], tmp_path / "findings.md").read_text()
    assert "| [F6](#f6) | It ends. | inconclusive | does not apply |" in text
    assert "## F6: When \\[it\\] ends { #f6 }\n\nDoes a\\|b end? **The paper:** It \\*does\\*." in text
    assert "- *It ends.* Why." in text
    for name in re.findall(r"\]\((findings/\S+)\)", text):
        assert (tmp_path / name).is_file()
    assert sorted(path.name for path in (tmp_path / "findings" / "pocket").iterdir()) == ["f6-all.png", "f6-l1.svg"]
    readme, table = (
        tmp_path / "README.md",
        "| It ends. | inconclusive | does not apply |\n| of all claims | 0 of 1 replicate |",
    )
    readme.write_text("Before.\n<!-- from benchmarks/findings_page.py -->\nold\n<!-- so far -->\nAfter.\n")
    for _ in range(2):
        write([tmp_path / "pocket", tmp_path / "other"], tmp_path / "findings.md", readme)
        begins = "Before.\n<!-- from benchmarks/findings_page.py -->\n| the paper says |"
        assert readme.read_text().startswith(begins)
        assert readme.read_text().endswith(f"{table} 0 of 0 replicate |\n<!-- so far -->\nAfter.\n")
    with pytest.raises(ShapefirstError, match="Two folders hold findings of pocket"):
        write([tmp_path / "pocket", tmp_path / "pocket"], tmp_path / "findings.md")
    readme.write_text("No place.\n")
    with pytest.raises(ShapefirstError, match="has no place for the table"):
        write([tmp_path / "pocket"], tmp_path / "findings.md", readme)
    for _ in range(2):
        kept = [keep(tmp_path / name, tmp_path / "kept") for name in ("pocket", "other")]
        assert [path.name for path in kept] == ["pocket", "an-other"]
        (tmp_path / "again").mkdir(exist_ok=True)
        assert write(kept, tmp_path / "again" / "findings.md").read_text() == text
    (picture,) = storage.load_all(kept[0])[0].pictures
    with Image.open(io.BytesIO(picture.png)) as few:
        assert few.mode == "P"


def test_the_page_of_findings_is_what_is_stored(tmp_path, monkeypatch):
    """Once the results of full runs are in the repository."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from findings_page import PAGE, RESULTS, write

    if RESULTS.is_dir():
        assert write(sorted(RESULTS.iterdir()), tmp_path / "findings.md").read_text() == PAGE.read_text()
