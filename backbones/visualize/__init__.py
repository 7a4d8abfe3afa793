"""Looking inside of models: weights of attention, receptive fields, class activation, features."""

from backbones.visualize.attention import LayerAttention, capture_attention

__all__ = ["LayerAttention", "capture_attention"]
