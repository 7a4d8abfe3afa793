_base_ = "semantic-fpn_emov2-1m_4xb8-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_20m", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 448]),
)
published = dict(miou=46.8, params=23.9, flops=51.5)
