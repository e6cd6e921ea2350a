"""The search for the policy that keeps the picture best for the time, on a model and a sampler.

It imports ``images`` and ``sampling``. One more kind of candidate is a line in ``search.candidates``.
"""
