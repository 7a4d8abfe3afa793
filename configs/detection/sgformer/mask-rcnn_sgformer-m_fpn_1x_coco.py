# The authors publish no code or settings of detectors: the usual ones, and the drop path of ImageNet.
_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="sgformer_m", pretrained="in1k", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
published = dict(box_ap=48.2, mask_ap=43.6)
