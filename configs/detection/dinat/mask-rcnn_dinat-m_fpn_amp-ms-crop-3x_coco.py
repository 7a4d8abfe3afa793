_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="dinat_m", pretrained="in1k", dilations="coco", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
published = dict(
    box_ap=47.2,
    mask_ap=42.5,
    params=40,
    flops=225,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/maskrcnn_dinat_mini.pth",
)
