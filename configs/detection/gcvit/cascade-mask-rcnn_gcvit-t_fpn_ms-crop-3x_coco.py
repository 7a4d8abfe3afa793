# The authors publish a config of the tiny model alone, whose settings the others take over.
_base_ = [
    "../../_base_/models/cascade-mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="gcvit_t", pretrained="in1k", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=2500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"relative_position_bias_table": dict(decay_mult=0.0)}))
published = dict(box_ap=51.6, mask_ap=44.6, params=85, flops=770)
