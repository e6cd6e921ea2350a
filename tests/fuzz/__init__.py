"""Calls that nobody would make: random command lines, damaged files, hostile folders; each in a process of its own.

`cases` says what a case is, `sources` where cases come from, `trial` carries one out and judges it, `__main__` makes
thousands of them (`make fuzz`), `kills` ends runs at any moment and looks at what the next one makes of it.
"""
