"""A policy carried out on a stock diffusers pipeline.

follow          the core: which images want which branch in a call, and what stands for the rest
extrapolation   what stands for a prediction that is not evaluated
stochastic      the same where the sampler adds noise
blocks          `guide` and `text_until`: the `with` blocks; and `apply`, without `with`
module          `apply_to_module`, for a denoiser in a loop of one's own
steering        the hook that finds out where a generation is, how its pipeline is met, and who answers
ways            what the ways have in common: a call that is asked for
one_batch       the way of pipelines with all branches in one batch
two_calls       the way of those with a call a branch
whole_calls     the way of any pipeline: a call is evaluated as it is, or all of it extrapolated
rows            some of the rows of all that a call is given
further         calls of a step beyond those of its branches
outputs         all that a call gives, as one tensor, and back
counting        what a block wants, and what was done in it
timeline        from timesteps to denoising steps
conditions      whether a generation is still the one that its latest predictions were made in
branches        which branches a call of the denoiser evaluates
meeting         how a pipeline would be met, told from its class
callback        `text_until` as a callback of the pipeline's own loop, which needs no hook
guider          a policy as the guider of Modular Diffusers, which needs no hook
hook            how a block stands before a denoiser, and goes without a trace
introspection   what has to be found out behind a pipeline's back

It imports ``policies`` and ``families``, and knows no command, study or file. One more way to meet a pipeline is one
file here that asks a ``Follower``, and a word of ``families.Family`` by which ``steering`` finds it.
"""

from shapefirst.guidance.blocks import Evaluations, Handle, apply, guide, is_steered, text_until

__all__ = ["Evaluations", "Handle", "apply", "guide", "is_steered", "text_until"]
