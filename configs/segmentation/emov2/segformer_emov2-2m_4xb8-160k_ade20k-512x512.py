_base_ = "segformer_emov2-1m_4xb8-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_2m", drop_path_rate=0.05),
    decode_head=dict(in_channels=[32, 48, 120, 200], channels=288),
)
published = dict(miou=40.2, params=2.6, flops=10.3)
