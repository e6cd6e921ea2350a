"""Images of prompts under policies, as the commands make them: jobs, comparisons, what is written, the demo, heat maps.

It imports ``guidance``, ``sampling``, ``measure`` and ``drawing``. One more thing to show is one file here.
"""
