# The authors publish no code or settings of detectors: the usual ones, and the drop path of ImageNet. The method and
# the schedule follow from the abstract, whose box AP is 2.7 above that of Swin-B in Mask R-CNN of 36 epochs.
_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="sgformer_b", pretrained="in1k", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(box_ap=51.2)
