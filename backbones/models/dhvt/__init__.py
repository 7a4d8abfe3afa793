"""DHVT: dynamic hybrid vision transformer."""

from backbones.models.dhvt import weights
from backbones.models.dhvt.model import DHVT, AggregationFeedForward, HeadInteractedAttention

__all__ = ["DHVT", "AggregationFeedForward", "HeadInteractedAttention", "weights"]
