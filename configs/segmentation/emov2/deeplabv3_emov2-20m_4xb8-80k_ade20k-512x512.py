_base_ = "deeplabv3_emov2-1m_4xb8-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_20m", drop_path_rate=0.1),
    decode_head=dict(in_channels=448),
    auxiliary_head=dict(in_channels=320),
)
published = dict(miou=43.3, params=26.0, flops=31.6)
