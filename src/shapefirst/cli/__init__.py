"""The commands: words and wiring only, with options and tables that they share.

It imports every room, and heavy ones only within the command that needs them; nothing imports it but ``__main__``. A
command more is one file here and one line in ``app``. Its body is at most 40 lines; options that several commands take,
or that it hands on together, are the fields of a dataclass (see ``options.unpacked``).
"""
