_base_ = [
    "../../_base_/models/semantic-fpn.py",
    "../../_base_/datasets/ade20k_aligned.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    # routing over 8 x 8 regions
    backbone=dict(model="biformer_s", pretrained="in1k", n_win=8, drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
published = dict(miou=48.9)
