"""Where prompts come from."""

from shapefirst.prompts.lines import read_prompts

__all__ = ["read_prompts"]
