"""The paper's "at about equal FID" as rules, for F7's few images and a sweep's many. Plain data, no torch.

Both are of ratios: a Frechet distance to reference images, over that of the fully guided images.
"""

from __future__ import annotations

from typing import Final

from shapefirst.measure.intervals import Rule

__all__ = ["PAPER", "RULE_CLOSE", "RULE_CONTROL", "UNCONTROLLED"]

PAPER: Final = "about equal FID on MS-COCO 30K"
#: Text in half of the steps.
RULE_CLOSE: Final = Rule("below", 1.1)
#: No text at all: where even that is not told apart, the distance says nothing of the images with text in half.
RULE_CONTROL: Final = Rule("above", 1.1)
UNCONTROLLED: Final = "The distance does not even tell images without text apart here."
