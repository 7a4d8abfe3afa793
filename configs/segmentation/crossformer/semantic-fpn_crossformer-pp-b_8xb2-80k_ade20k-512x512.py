_base_ = "semantic-fpn_crossformer-pp-s_8xb2-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="crossformer_pp_b", drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(miou=48.6, params=55.6, flops=331.1)
