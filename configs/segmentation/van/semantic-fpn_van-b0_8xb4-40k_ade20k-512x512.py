_base_ = [
    "../../_base_/models/semantic-fpn.py",
    "../../_base_/datasets/ade20k_aligned.py",
    "../../_base_/schedules/ade20k_40k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="van_b0", pretrained="in1k", drop_path_rate=0.2),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
train_dataloader = dict(batch_size=4)
published = dict(miou=38.5)
