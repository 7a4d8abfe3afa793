_base_ = [
    "../../_base_/models/semantic-fpn.py",
    "../../_base_/datasets/ade20k_aligned.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="transxnet_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[48, 96, 224, 448]),
)
train_dataloader = dict(batch_size=4)
published = dict(
    miou=45.5, checkpoint="https://github.com/LMMMEng/TransXNet/releases/download/v1.0/sfpn_transxnet_tiny.pth"
)
