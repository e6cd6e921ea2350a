"""What the studio remembers, in memory alone: of each tab its latest outcome and a gallery, and the pictures.

A tab is known by a token that it made up, a picture by one that nobody can guess.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from secrets import token_urlsafe
from threading import Lock
from typing import Final
from urllib.parse import quote

from shapefirst.errors import ShapefirstError
from shapefirst.studio.making import JobResult
from shapefirst.studio.settings import StudioSettings
from shapefirst.studio.turns import Ticket

__all__ = ["Hung", "Shelf", "Tab"]

MOST_BYTES: Final = 256 * 2**20  # of pictures
MOST_TABS: Final = 32
MOST_HUNG: Final = 24  # pictures of a tab's gallery
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Hung:
    """A picture of the gallery, and the settings that make it again."""

    settings: StudioSettings
    seed: int
    address: str
    said: str


@dataclass
class Tab:
    """What is remembered of a tab.

    Attributes:
        token: Its name.
        ticket: Its latest job.
        settings: What that was of.
        outcome: What its latest good one made.
        shown: That, as HTML.
        hung: The gallery, the newest first.
    """

    token: str
    ticket: Ticket | None = None
    settings: StudioSettings | None = None
    outcome: JobResult | None = None
    shown: str = ""
    hung: list[Hung] = field(default_factory=list)


class Shelf:
    """Tabs and pictures; those that were not asked for the longest go first."""

    def __init__(self, most_bytes: int = MOST_BYTES, most_tabs: int = MOST_TABS) -> None:
        self._most_bytes, self._most_tabs = most_bytes, most_tabs
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._tabs: OrderedDict[str, Tab] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def tab(self, token: str) -> Tab:
        """The tab of that name, a new one if it is not known.

        Raises:
            ShapefirstError: It is no name of a tab.
        """
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ShapefirstError("This page has lost its place: load it again.")
        with self._lock:
            tab = self._tabs.setdefault(token, Tab(token))
            self._tabs.move_to_end(token)
            while len(self._tabs) > self._most_tabs:
                self._tabs.popitem(last=False)
            return tab

    def keep(self, png: bytes, name: str) -> str:
        """The address of a picture, relative to the page's; it ends with ``name``, which a browser saves it under."""
        key = token_urlsafe(16)
        with self._lock:
            self._pictures[key] = png
            self._bytes += len(png)
            while self._bytes > self._most_bytes and len(self._pictures) > 1:
                self._bytes -= len(self._pictures.popitem(last=False)[1])
        return f"pictures/{key}/{quote(name)}"

    def picture(self, key: str) -> bytes | None:
        """What was kept under a key; None if it has gone."""
        with self._lock:
            found = self._pictures.get(key)
            if found is not None:
                self._pictures.move_to_end(key)
            return found

    def hang(self, tab: Tab, pictures: list[Hung]) -> None:
        """Put pictures into a tab's gallery, where the oldest make room."""
        tab.hung = [*pictures, *tab.hung][:MOST_HUNG]
