_base_ = "deeplabv3_emov2-1m_4xb8-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_2m", drop_path_rate=0.05),
    decode_head=dict(in_channels=200),
    auxiliary_head=dict(in_channels=120),
)
published = dict(miou=36.8, params=6.6, flops=5.0)
