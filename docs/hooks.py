"""What MkDocs does for these pages besides: equations, pages of the reference, and files that lie elsewhere.

- A fence `math` becomes MathML, which browsers draw themselves: no script and no font is loaded.
- The reference has all that `import shapefirst` gives, and a page of all public names for each room of the package.
- What a module's docstring says in columns or as equations stays as it is typed.
- A link to a file outside of docs/ works in the repository; in the site that page or picture is taken in.
"""

from __future__ import annotations

import ast
import os
import pkgutil
import re
from pathlib import Path
from textwrap import indent
from typing import Any, Final

from griffe import Extension, Module
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "src" / "shapefirst"
#: The commands and the recipe of the training are no interface.
NOT_ROOMS: Final = {"__main__", "cli", "training"}
FIRST: Final = ("guide", "text_until", "apply", "trace", "edit", "load", "TextSchedule", "Auto", "Guider")
#: Where a file outside of docs/ comes to lie in the site.
TAKEN_IN: Final = {
    "benchmarks/results": "results",
    "src/shapefirst/models/weights/pocket": "pocket-model",
    "examples": "examples",
}
_CODE: Final = re.compile(r"(?<=<code>)[^<]+")
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


class Listings(Extension):
    """An extension of mkdocstrings."""

    def on_module_instance(self, *, mod: Module, **_: Any) -> None:
        """A paragraph with a gap between the words of a line is code."""
        if mod.docstring is not None:
            paragraphs = mod.docstring.value.split("\n\n")
            listings = (re.search(r"\S {2,}\S", one) and not one.startswith(" ") for one in paragraphs)
            mod.docstring.value = "\n\n".join(
                indent(one, "    ") if listing else one for one, listing in zip(paragraphs, listings, strict=True)
            )


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


def public_names() -> list[str]:
    """The package's `__all__`, what is used most first."""
    body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    (names,) = (n.value for n in body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__")
    found = {name for name in ast.literal_eval(names) if not name.startswith("_")}
    return [*(name for name in FIRST if name in found), *sorted(found - set(FIRST))]


def on_page_content(html: str, **_: Any) -> str:
    """Names in the cells of a table break between their parts, and not within a word, where the column is narrow."""
    return re.sub(r"<td[^>]*>.*?</td>", lambda cell: _CODE.sub(_in_parts, cell[0]), html, flags=re.DOTALL)


def _in_parts(code: re.Match[str]) -> str:
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])|(?<=[_/.=+,])(?=\w)", "<wbr>", code[0])


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    members = "\n\n".join(f"::: shapefirst.{name}" for name in public_names())
    markdown = markdown.replace("<!-- public names -->", members)

    def here(found: re.Match[str]) -> str:
        folder, _, name = found[1].rpartition("/")
        place = f"{TAKEN_IN[folder]}/{name}" if folder in TAKEN_IN else found[1]
        return f"]({os.path.relpath(place, Path(page.file.src_uri).parent)}"

    return _LINK.sub(here, markdown)
