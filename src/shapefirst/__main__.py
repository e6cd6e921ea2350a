"""``python -m shapefirst`` is the command ``shapefirst``."""

from shapefirst.cli import main

main()
