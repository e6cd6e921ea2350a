"""Which steps evaluate what: plain data without torch, the words that name it, and the file that ``tune`` writes.

It imports only errors, checks and files. A policy more is a function in ``placement`` that places guided steps, and an
entry in ``words``.
"""
