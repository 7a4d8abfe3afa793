"""Scaled dot-product attention with a learned bias, or with the weights of its keys."""

from backbones.ops.attention.key_weights import attention_and_key_weights
from backbones.ops.attention.operators import biased_attention

__all__ = ["attention_and_key_weights", "biased_attention"]
