_base_ = "semantic-fpn_emov2-1m_4xb8-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_2m", drop_path_rate=0.05),
    neck=dict(in_channels=[32, 48, 120, 200]),
)
published = dict(miou=39.9, params=6.2, flops=25.1)
