_base_ = "semantic-fpn_crossformer-s_8xb2-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="crossformer_b", drop_path_rate=0.3),
)
published = dict(miou=48.0, params=55.6, flops=320.1)
