"""A policy carried out on a stock diffusers pipeline.

blocks          `guide` and `text_until`: the `with` blocks, and the hook that runs the rows that a policy asks for
follow          one generation under one policy: which images are guided now, and what stands for the rest
extrapolation   what stands for a prediction that is not evaluated
timeline        from timesteps to denoising steps
conditions      whether a generation is still the one that its latest predictions were made in
branches        which branches a call of the denoiser evaluates
hook            how a block stands before a denoiser, and goes without a trace

It imports ``policies`` and ``families``, and knows no command, study or file. One more way to meet a pipeline is one
file here that follows ``follow``.
"""

from shapefirst.guidance.blocks import Evaluations, guide, is_steered, text_until

__all__ = ["Evaluations", "guide", "is_steered", "text_until"]
