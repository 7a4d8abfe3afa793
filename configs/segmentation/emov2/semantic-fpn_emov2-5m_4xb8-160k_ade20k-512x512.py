_base_ = "semantic-fpn_emov2-1m_4xb8-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_5m", drop_path_rate=0.05),
    neck=dict(in_channels=[48, 72, 160, 288]),
)
published = dict(miou=42.4, params=8.9, flops=29.1)
