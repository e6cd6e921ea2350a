"""The sampling loop of our own over a pipeline's parts, one run or several that share what they have in common.

It imports ``guidance``, ``families`` and ``models``. A sampler more is no matter of this room: it is an entry in
``models.catalogue.SAMPLERS``.
"""
