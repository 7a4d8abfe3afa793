_base_ = "semantic-fpn_biformer-s_8xb4-amp-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="biformer_b", drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(miou=49.9)
