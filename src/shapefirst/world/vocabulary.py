"""The words of pocket's world: what the embedded model can draw.

Plain data, without any dependency, so that a command can list it at once. A prompt is

    a {attribute} {noun}                                                (one object)
    a {attribute} {noun} {relation} a {attribute} {noun}                (two objects)

after the paper's PromptSet. "and" draws the first object on the left.
"""

from __future__ import annotations

from typing import Final

from shapefirst.signatures import guarded
from shapefirst.words import folded, spans

NOUNS: Final = tuple(
    """
    airplane apple bear bed bell butterfly cactus car castle cat crown cup dolphin duck elephant fish flower
    guitar hat heart horse house key lamp leaf lock mushroom pear penguin pumpkin rabbit rocket sailboat shirt
    shoe sofa star tree truck umbrella
    """.split()  # noqa: SIM905
)
#: The nouns whose silhouettes in @mdi/svg (Apache-2.0) have other names there.
_SLUGS: Final = {
    "apple": "food-apple",
    "bear": "teddy-bear",
    "car": "car-side",
    "cup": "coffee",
    "flower": "flower-tulip",
    "guitar": "guitar-acoustic",
    "hat": "hat-fedora",
    "house": "home",
    "pear": "fruit-pear",
    "sailboat": "sail-boat",
    "shirt": "tshirt-crew",
    "shoe": "shoe-sneaker",
    "tree": "pine-tree",
}
#: noun -> slug of its silhouette.
ICONS: Final[dict[str, str]] = {noun: _SLUGS.get(noun, noun) for noun in NOUNS}

#: colour -> 8-bit sRGB of the paint.
COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (216, 32, 36),
    "orange": (246, 132, 22),
    "yellow": (250, 216, 30),
    "green": (38, 150, 52),
    "blue": (34, 80, 214),
    "purple": (126, 44, 168),
    "pink": (250, 122, 178),
    "brown": (116, 70, 38),
    "black": (22, 22, 26),
    "white": (252, 252, 252),
}
#: The eight texture words of T2I-CompBench.
TEXTURES: Final = ("wooden", "metallic", "glass", "fabric", "leather", "rubber", "plastic", "fluffy")
ATTRIBUTES: Final = (*COLOURS, *TEXTURES)

#: relation -> where the first object stands: (column, row) of a 2 x 2 grid, None where it is centred.
RELATIONS: Final[dict[str, tuple[int | None, int | None]]] = {
    "and": (0, None),
    "on the left of": (0, None),
    "on the right of": (1, None),
    "above": (None, 0),
    "below": (None, 1),
}

#: Every 20th attribute-noun combination is kept out of training (36 of 720, spread over all nouns and attributes):
#: drawing them shows that the model composes.
HELD_OUT: Final = frozenset(
    (attribute, noun)
    for n, noun in enumerate(NOUNS)
    for a, attribute in enumerate(ATTRIBUTES)
    if (7 * n + 3 * a) % 20 == 0
)

_KNOWN_WORDS = frozenset(
    {"a", "an", "the"} | {w for words in (NOUNS, ATTRIBUTES, RELATIONS) for phrase in words for w in phrase.split()}
)


@guarded
def phrase_of(attribute: str, noun: str) -> str:
    """ "a red car", "an orange car". Captions that pocket was trained on say "a orange"; it draws both alike."""
    return f"a{'n' * attribute.lower().startswith(tuple('aeiou'))} {attribute} {noun}"


@guarded
def relation_of(text: str) -> str | None:
    """The relation that a prompt of two phrases names, if any."""
    return next((words for words in RELATIONS if f" {words} " in text), None)


@guarded
def unknown_words(prompt: str) -> list[str]:
    """The words of ``prompt`` that pocket never saw in training, in order, each once."""
    words = dict.fromkeys(prompt[start:end].lower() for start, end in spans(prompt))
    return [word for word in words if folded(word) not in _KNOWN_WORDS]
