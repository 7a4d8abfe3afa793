# PSPNet (arXiv 1612.01105) on the last map, with an auxiliary FCN head on stride 16. A config gives backbone.model and
# in_channels.
_base_ = "upernet.py"

model = dict(decode_head=dict(type="PSPHead", in_index=3))
