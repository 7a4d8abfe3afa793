_base_ = "segformer_emov2-1m_4xb8-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_20m", drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 320, 448], channels=288),
)
published = dict(miou=47.3, params=20.4, flops=36.8)
