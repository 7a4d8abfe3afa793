_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="nat_m", pretrained="in1k", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
published = dict(
    box_ap=46.5,
    mask_ap=41.7,
    params=40,
    flops=225,
    checkpoint="https://shi-labs.com/projects/nat/checkpoints/DET/nat_mini_maskrcnn.pth",
)
