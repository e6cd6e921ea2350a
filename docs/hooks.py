"""What MkDocs does for these pages besides: equations, pages of the reference, and files that lie elsewhere.

- A fence `math` becomes MathML, which browsers draw themselves: no script and no font is loaded.
- Each room of the package gets a page of the reference, with all public names.
- A link to a file outside of docs/ works in the repository; in the site that page or picture is taken in.
"""

from __future__ import annotations

import os
import pkgutil
import re
from pathlib import Path
from typing import Any, Final

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "src" / "shapefirst"
#: The commands and the recipe of the training are no interface.
NOT_ROOMS: Final = {"__main__", "cli", "training"}
#: Where a file outside of docs/ comes to lie in the site.
TAKEN_IN: Final = {
    "benchmarks/results": "results",
    "src/shapefirst/models/weights/pocket": "pocket-model",
    "examples": "examples",
}
_LINK: Final = re.compile(r"\]\((?:\.\./)+([^)#]+)")


def on_config(config: Any) -> Any:
    fences = [{"name": "math", "class": "math", "format": equation}]
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": fences}
    (reference,) = (part["Reference"] for part in config.nav if "Reference" in part)
    reference += [{room: f"api/{room}.md"} for room in rooms()]
    return config


def equation(source: str, *_: Any, **__: Any) -> str:
    """The equation as a block of MathML."""
    return f'<div class="math">{convert(source.strip(), display="block")}</div>'


def rooms() -> list[str]:
    return sorted(found.name for found in pkgutil.iter_modules([str(PACKAGE)]) if found.name not in NOT_ROOMS)


def on_files(files: Any, config: Any) -> Any:
    for room in rooms():
        files.append(File.generated(config, f"api/{room}.md", content=room_page(room)))
    for folder, place in TAKEN_IN.items():
        for path in sorted((ROOT / folder).iterdir()):
            if path.is_file():
                files.append(File.generated(config, f"{place}/{path.name}", abs_src_path=str(path)))
    return files


def room_page(room: str) -> str:
    """A heading for each of the room's modules that has public names, and what mkdocstrings makes of it."""
    names = [
        f"shapefirst.{room}",
        *(f"shapefirst.{room}.{f.name}" for f in pkgutil.iter_modules([str(PACKAGE / room)])),
    ]
    return "\n\n".join([f"# {room}", *(f"::: {name}" for name in names)])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    def here(found: re.Match[str]) -> str:
        folder, _, name = found[1].rpartition("/")
        place = f"{TAKEN_IN[folder]}/{name}" if folder in TAKEN_IN else found[1]
        return f"]({os.path.relpath(place, Path(page.file.src_uri).parent)}"

    return _LINK.sub(here, markdown)
