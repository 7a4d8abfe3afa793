_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="dinat_s_t", pretrained="in1k", dilations="coco_s", drop_path_rate=0.2),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
published = dict(
    box_ap=46.6,
    mask_ap=42.1,
    params=48,
    flops=263,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/maskrcnn_dinat_s_tiny.pth",
)
