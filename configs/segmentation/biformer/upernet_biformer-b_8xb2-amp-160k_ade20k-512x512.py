_base_ = "upernet_biformer-s_8xb2-amp-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="biformer_b", drop_path_rate=0.4),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
published = dict(miou=51.0, miou_ms=51.7)
