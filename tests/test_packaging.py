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


def test_a_report_is_written_without_torch():
    assert imported_by("import shapefirst.report, shapefirst.sweep.report, shapefirst.sweep.summary") <= {
        "numpy",
        "PIL",
    }


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
