_base_ = [
    "../../_base_/models/cascade-mask-rcnn.py",
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
    box_ap=51.2,
    mask_ap=44.4,
    params=77,
    flops=704,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/cascadedmaskrcnn_dinat_mini.pth",
)
