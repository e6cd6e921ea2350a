"""``python -m shapefirst`` is the command ``shapefirst``."""

from __future__ import annotations

import sys

from shapefirst.errors import INTERRUPTED


def main() -> None:
    """The entry point of the command: what interrupts its imports, too, ends it without a traceback."""
    try:
        from shapefirst.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
