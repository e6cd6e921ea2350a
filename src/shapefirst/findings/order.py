"""Which studies there are, in the order of the report."""

from __future__ import annotations

from typing import Final

__all__ = ["STUDIES"]

#: Name -> module of `studies`, or elsewhere by its whole name, in the order of the report.
STUDIES: Final[dict[str, str]] = {
    "f1": "f1_shape_first",
    "f2": "f2_frequencies",
    "f3": "f3_sos_attention",
    "f4": "f4_eos_decides",
    "f5": "f5_when_it_decides",
    "f6": "f6_text_dropped",
    "f7": "f7_savings",
    "a1": "a1_how_many_eos",
    "a2": "a2_alone",
    "a3": "a3_words_or_eos",
    "a4": "a4_key_or_value",
    "a5": "a5_maps_of_keys",
    "a6": "a6_other_conditions",
    "a7": "a7_switched_maps",
    "c1": "c1_equal_snr",
    "c2": "c2_padding",
    "c3": "c3_sos_masked",
    "x1": "x1_conditions",
    "x2": "x2_policies",
    "x3": "x3_windows",
    "x4": "x4_lock_in",
    "x5": "x5_negative",
    "x6": "x6_difference",
}
