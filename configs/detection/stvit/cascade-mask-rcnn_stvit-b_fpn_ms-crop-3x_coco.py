# The authors publish no code or settings of detectors: the usual ones, and the drop path of ImageNet. The abstract's
# box AP 53.9 and mask AP 46.8 are those of their best detector, of which it names neither model nor method.
_base_ = [
    "../../_base_/models/cascade-mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="stvit_b", pretrained="in1k", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
