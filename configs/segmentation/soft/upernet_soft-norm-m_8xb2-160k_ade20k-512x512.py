_base_ = "upernet_soft-norm-s_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="soft_norm_m"),
    decode_head=dict(in_channels=[64, 128, 288, 512]),
    auxiliary_head=dict(in_channels=288),
)
published = dict(miou=48.0, params=76)
