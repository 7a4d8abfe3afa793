_base_ = [
    "../../_base_/models/semantic-fpn.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_40k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="agent_pvt_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
auto_scale_lr = dict(base_batch_size=16)
published = dict(miou=40.18, params=15, flops=147)
