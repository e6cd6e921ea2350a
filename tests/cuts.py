"""A process that dies at its n-th file operation: from then on nothing of it reaches the disk, no tidying either."""

import sys
from collections.abc import Callable

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


class Killed(BaseException):
    """What no code of ours catches."""


class _Hook:
    """Of the interpreter, which forgets none: it counts while `left` is a number."""

    left: int | None = None

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.left is None or event not in OPERATIONS:
            return
        if event == "open" and not (arguments[2] & 0x3 or "w" in str(arguments[1])):  # read alone
            return
        if self.left == 0:
            raise Killed(f"{event} {arguments}")
        self.left -= 1


_hook = _Hook()
sys.addaudithook(_hook)


def killed(at: int, run: Callable[[], object]) -> bool:
    """Whether ``run`` was ended at its file operation number ``at``, counted from 0; False if it has no so many."""
    _hook.left = at
    try:
        run()
    except Killed:
        return True
    finally:
        _hook.left = None
    return False
