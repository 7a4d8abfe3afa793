_base_ = "upernet_van-b0_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="van_b3", drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
published = dict(
    miou=49.71,  # of the same weights, by OpenMMLab
    miou_ms=50.6,
    params=75,
    flops=1030,
    checkpoint="https://cloud.tsinghua.edu.cn/f/97bde65fbe334b358797/?dl=1",
)
