_base_ = "upernet_van-b0_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="van_b1", drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
published = dict(miou_ms=44.9, params=44)
