"""What a newcomer relies on before anything heavy is imported, and that the pieces of the package agree."""

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "diffusers", "transformers", "numpy", "PIL", "huggingface_hub", "jinja2"}


def imported_by(code):
    """The heavy packages that running ``code`` in a fresh interpreter imports."""
    report = f"import sys\n{code}\nprint('loaded:', *({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def command(*arguments):
    run = "try: app()\nexcept SystemExit as stop: assert not stop.code"
    return f"sys.argv = {['shapefirst', *arguments]!r}\nfrom shapefirst.cli.app import app\n{run}"


@pytest.mark.parametrize(
    "code",
    [
        "import shapefirst",
        "from shapefirst import TextSchedule, ShapefirstError",
        command("--help"),
        command("--version"),
        command("generate", "--help"),
        command("models", "pocket"),
    ],
    ids=["package", "schedule", "help", "version", "generate-help", "vocabulary"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    assert imported_by(code) == set()


def test_the_studies_are_listed_without_torch():
    assert imported_by(command("study", "--list")) <= {"numpy", "PIL"}


def test_a_report_is_written_without_torch():
    assert imported_by("import shapefirst.report, shapefirst.sweep.report, shapefirst.sweep.summary") <= {
        "numpy",
        "PIL",
    }


EXTRAS = (
    *("matplotlib", "pyarrow", "scipy", "skimage", "ray", "resvg_py", "material_design_icons_pack", "sentencepiece"),
    "gradio",
)


def without_extras(code, folder):
    """Runs ``code`` in a fresh interpreter that has the core install alone."""
    blocked = f"import sys\nsys.modules |= dict.fromkeys({EXTRAS!r})\n{code}"
    return subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, cwd=folder, check=False)


def test_the_core_install_guides_a_pipeline(tmp_path):
    code = f"""
sys.path.append({str(ROOT / "tests")!r})
from pathlib import Path
from conftest import _stable_diffusion
from shapefirst import guide
pipe = _stable_diffusion(Path({str(tmp_path)!r}), "epsilon", deep=False)
with guide(pipe, budget=0.9) as spent:
    pipe("a cat", num_inference_steps=8, output_type="np")
assert "pydantic" not in sys.modules
print("rows:", spent.rows)"""
    done = without_extras(code, tmp_path)
    assert done.stdout.splitlines()[-1:] == ["rows: 14"], done.stderr  # and neither import nor call took pydantic


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tune",), "Intervals are computed with scipy: pip install '"),
        (("study", "f1"), "Studies need matplotlib and pyarrow and scipy and skimage: pip install"),
        (("sweep", "run"), "or pip install '.[studies]' in a clone."),
        (("train-pocket", "--out", "x"), "pip install '.[train]' in a clone."),
        (("studio",), "The studio runs with gradio: pip install"),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_a_command_without_its_extra_says_which(tmp_path, words, said):
    done = without_extras("from shapefirst.__main__ import main\nsys.argv[1:] = " + repr(words) + "\nmain()", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_said_once():
    import shapefirst

    assert 'path = "src/shapefirst/__init__.py"' in (ROOT / "pyproject.toml").read_text()
    assert shapefirst.__version__.count(".") == 2


def test_torchvision_is_no_dependency():
    for name in ("pyproject.toml", "constraints.txt"):
        assert "torchvision" not in (ROOT / name).read_text()


def test_every_dependency_has_a_tested_version():
    dependencies = re.findall(r'^    "([\w-]+)>=', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    pinned = {line.split("==")[0].replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {"torch", "diffusers", "pytest"} <= set(dependencies) <= pinned


def test_every_template_is_packed_and_escapes():
    """hatch packs each file of the package that .gitignore does not name."""
    assert 'packages = ["src/shapefirst"]' in (ROOT / "pyproject.toml").read_text()
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    templates = [file for kind in ("html", "css") for file in (ROOT / "src" / "shapefirst").rglob(f"*.{kind}")]
    assert {"page.html", "report.html", "style.css", "demo.html"} <= {file.name for file in templates}
    for file in templates:
        assert not [line for line in ignored for part in file.parts if fnmatch(part, line)], file
        assert not re.search(r"\bsafe\b|autoescape", file.read_text(encoding="utf-8")), file


def test_a_test_that_skips_fails_unless_it_needs_a_gpu(tmp_path):
    files = {
        "by_call": ("def test_it():\n    pytest.skip('no such package')", "FAILED"),
        "by_mark": ("@pytest.mark.skipif(True, reason='no such package')\ndef test_it(): pass", "ERROR"),
        "by_import": ("pytest.importorskip('no_such_package')", "ERROR"),
        "without_gpu": ("def test_it():\n    pytest.skip('needs a GPU')", "SKIPPED"),
    }
    for name, (skipping, _) in files.items():
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n{skipping}\n")
    words = [sys.executable, "-m", "pytest", "-q", "-rsfE", "-p", "skips", "--continue-on-collection-errors"]
    words += ["--rootdir", tmp_path, "-c", "/dev/null", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT / "tests", check=False)
    for name, (_, ends) in files.items():
        assert re.search(rf"^{ends} .*test_{name}\.py", done.stdout, re.MULTILINE), done.stdout
    assert "1 failed, 1 skipped, 2 errors" in done.stdout
