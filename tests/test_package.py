"""The wheel and the sdist: built, put in a place without the repository, and run there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import shapefirst

ROOT = Path(__file__).parent.parent
LARGEST = 46_000_000  # bytes of the wheel, weights included


def run(*command, cwd):
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it: what the sdist leaves out cannot be in it."""
    place = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", place, cwd=ROOT)
    (sdist,) = place.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place, filter="data")
    (source,) = (path for path in place.iterdir() if path.is_dir())
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place, cwd=source)
    (wheel,) = place.glob("*.whl")
    return sdist, wheel


def test_both_hold_what_they_should_and_no_more(built):
    sdist, wheel = built
    assert sdist.name == f"shapefirst-{shapefirst.__version__}.tar.gz"
    assert wheel.stat().st_size < LARGEST, "say in pyproject.toml what can go"
    names = zipfile.ZipFile(wheel).namelist()
    own = {name for name in names if name.startswith("shapefirst/")}
    tracked = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()}
    assert own == {name for name in tracked if "__pycache__" not in name}
    assert "shapefirst/py.typed" in own
    assert all(re.match(r"shapefirst(-[\d.]+\.dist-info)?/", name) for name in names)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "tests/test_package.py"} <= inside


def test_the_wheel_runs_where_there_is_no_repository(built, tmp_path):
    """In an environment of its own, which finds the dependencies of this one and nothing else that is installed here:
    the lines of this one's .pth files, by which the repository would be found, do not count there."""
    _, wheel = built
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "-q", "--no-deps", "--no-index", "--no-compile", wheel, cwd=tmp_path)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = (tmp_path / "env" / "bin" / "shapefirst",)
    env = ("env", "-u", "PYTHONPATH", "OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1")
    where = "import shapefirst; print(shapefirst.__file__, shapefirst.__version__)"
    assert run(*env, python, "-c", where, cwd=tmp_path).split() == [
        str(site / "shapefirst" / "__init__.py"),
        shapefirst.__version__,
    ]
    made = run(*env, *command, "generate", "a red mushroom", "--steps", 2, "--out", "images", "--json", cwd=tmp_path)
    (row,) = json.loads(made)["rows"]
    assert (tmp_path / row["file"]).is_file()
    assert row["denoiser_evaluations"] == 4


def test_the_change_log_and_the_citation_are_of_this_version():
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([\d.]+)", log, re.MULTILINE) == [shapefirst.__version__, "0.1.0"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {shapefirst.__version__}\n" in citation
    assert "2405.15330" in citation
