# The authors publish no code or settings of detectors: the usual ones, and the drop path of ImageNet.
_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_box.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="soft_norm_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[128, 320, 512]),
)
published = dict(box_ap=40.0, params=23)
