_base_ = "pspnet_emov2-1m_4xb8-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="emov2_20m", drop_path_rate=0.1),
    decode_head=dict(in_channels=448),
    auxiliary_head=dict(in_channels=320),
)
published = dict(miou=43.4, params=23.6, flops=30.9)
