"""A policy carried out on a stock diffusers pipeline.

follow          the core: which images want which branch in a call, and what stands for the rest
extrapolation   what stands for a prediction that is not evaluated
stochastic      the same where the sampler adds noise
blocks          `guide` and `text_until`: the `with` blocks
one_batch       the way of pipelines with both branches in one batch, and of the ControlNets that feed them
rows            some of the rows of all that a call is given
timeline        from timesteps to denoising steps
conditions      whether a generation is still the one that its latest predictions were made in
branches        which branches a call of the denoiser evaluates
hook            how a block stands before a denoiser, and goes without a trace
introspection   what has to be found out behind a pipeline's back

It imports ``policies`` and ``families``, and knows no command, study or file. One more way to meet a pipeline is one
file here that asks a ``Follower``, and a word of ``families.Family`` by which `guide` finds it.
"""

from shapefirst.guidance.blocks import Evaluations, guide, is_steered, text_until

__all__ = ["Evaluations", "guide", "is_steered", "text_until"]
