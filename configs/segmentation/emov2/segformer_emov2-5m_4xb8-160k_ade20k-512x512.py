_base_ = "segformer_emov2-1m_4xb8-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_5m", drop_path_rate=0.05),
    decode_head=dict(in_channels=[48, 72, 160, 288], channels=288),
)
published = dict(miou=43.0, params=5.3, flops=14.4)
