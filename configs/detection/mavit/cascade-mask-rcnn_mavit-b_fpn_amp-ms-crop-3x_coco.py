# The authors do not state the batch that this rate is for, four times that of RAVLT.
_base_ = [
    "../../_base_/models/cascade-mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="mavit_b", pretrained="in1k", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale=512.0,
    optimizer=dict(lr=0.0004),
    paramwise_cfg=dict(norm_decay_mult=0.0),  # of all norms, those without "norm" in their names too
)
published = dict(box_ap=55.5, mask_ap=48.0)
