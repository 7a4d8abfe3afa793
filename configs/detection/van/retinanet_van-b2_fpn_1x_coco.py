# The paper states neither learning rate nor decay nor drop path: the usual ones, and the rate of ImageNet.
_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_box.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="van_b2", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[128, 320, 512]),
)
published = dict(box_ap=44.9)
