_base_ = "upernet_van-b0_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="van_b4", drop_path_rate=0.4),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
published = dict(
    miou=51.56,  # of the same weights, by OpenMMLab
    miou_ms=52.2,
    params=90,
    flops=1098,
    checkpoint="https://cloud.tsinghua.edu.cn/f/5273f92c77a94395b804/?dl=1",
)
