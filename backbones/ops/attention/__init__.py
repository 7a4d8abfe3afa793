"""Scaled dot-product attention with a learned bias."""

from backbones.ops.attention.operators import biased_attention

__all__ = ["biased_attention"]
