_base_ = "upernet_van-b0_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="van_b6", pretrained="in22k", drop_path_rate=0.5),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
published = dict(
    miou=54.25,  # of the same weights, by OpenMMLab
    miou_ms=54.7,
    params=231,
    flops=1658,
    checkpoint="https://cloud.tsinghua.edu.cn/f/853d9d0ea0f44c2aa090/?dl=1",
)
