_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_box_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="smt_s", pretrained="in1k", drop_path_rate=0.2, drop_values=True),
    neck=dict(in_channels=[128, 256, 512]),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
)
sync_bn = None  # no BatchNorm is synchronised
published = dict(box_ap=47.3, params=30, flops=247)
