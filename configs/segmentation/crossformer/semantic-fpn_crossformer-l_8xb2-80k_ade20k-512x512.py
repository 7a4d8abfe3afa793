_base_ = "semantic-fpn_crossformer-s_8xb2-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="crossformer_l", drop_path_rate=0.5, group_sizes=(14, 14, 7, 7), intervals=(16, 8, 2, 1)),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
published = dict(miou=49.1, params=95.4, flops=482.7)
