_base_ = "upernet_crossformer-pp-s_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="crossformer_pp_b", drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
published = dict(miou=50.7, miou_ms=51.0, params=83.7, flops=1089.8)
