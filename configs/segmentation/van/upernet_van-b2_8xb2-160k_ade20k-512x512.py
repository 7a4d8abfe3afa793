_base_ = "upernet_van-b0_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="van_b2", drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
published = dict(
    miou=49.35,  # of the same weights, by OpenMMLab
    miou_ms=50.1,
    params=57,
    flops=948,
    checkpoint="https://cloud.tsinghua.edu.cn/f/68c8b494f3824d30bf07/?dl=1",
)
