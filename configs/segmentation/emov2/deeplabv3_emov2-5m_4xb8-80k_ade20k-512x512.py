_base_ = "deeplabv3_emov2-1m_4xb8-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_5m", drop_path_rate=0.05),
    decode_head=dict(in_channels=288),
    auxiliary_head=dict(in_channels=160),
)
published = dict(miou=39.8, params=9.9, flops=9.1)
