_base_ = "upernet_crossformer-s_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="crossformer_l", drop_path_rate=0.5),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
published = dict(miou=50.4, miou_ms=51.4, params=125.5, flops=1257.8)
