_base_ = "semantic-fpn_van-b0_8xb4-40k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="van_b3", drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
published = dict(miou=48.1)
