"""Prompts: where they come from (PromptSet, S-PromptSet, MS-COCO, plain text), where their tokens stand, edits of them.

It imports ``world`` and what lies below. A source more is one file here and one command in ``cli.prompts``.
"""

from shapefirst.prompts.captions import PAPER_CAPTIONS, read_captions
from shapefirst.prompts.lines import as_lines, parse_prompts, read_pairs, read_prompts
from shapefirst.prompts.pairs import Pair, make_pairs
from shapefirst.prompts.prompt import Prompt, parse_phrases
from shapefirst.prompts.promptset import PAPER_SIZES, compbench, every_phrase, mixed, sample

__all__ = [
    "PAPER_CAPTIONS",
    "PAPER_SIZES",
    "Pair",
    "Prompt",
    "as_lines",
    "compbench",
    "every_phrase",
    "make_pairs",
    "mixed",
    "parse_phrases",
    "parse_prompts",
    "read_captions",
    "read_pairs",
    "read_prompts",
    "sample",
]
