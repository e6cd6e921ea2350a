"""How the embedded models are trained: stages that leave their work in a folder and go on where they were stopped.

It imports ``world``, ``measure`` and ``drawing``. A model more is a preset and its stages in ``stages``; its weights go
to ``models/weights``.
"""
