# The authors publish no code or settings of detectors: the usual ones, and the drop path of ImageNet.
_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="soft_norm_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
published = dict(box_ap=41.2, mask_ap=38.2, params=33)
