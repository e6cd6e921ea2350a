"""Cross-attention, watched and edited: recordings of its maps, substitutions of its keys and values.

It imports ``guidance``, ``families`` and ``prompts``. One more thing to record is a field of ``recording.Maps`` and
what ``hook.Recording`` does for it.
"""

from shapefirst.attention.recording import Maps, class_weights, kl_divergence, record, substitute

__all__ = ["Maps", "class_weights", "kl_divergence", "record", "substitute"]
