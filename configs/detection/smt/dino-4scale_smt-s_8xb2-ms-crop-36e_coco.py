_base_ = [
    "../../_base_/models/dino.py",
    "../../_base_/datasets/coco_box_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

# Only the result is published: the hyper-parameters are DINO's own for 36 epochs.
model = dict(
    backbone=dict(model="smt_s", pretrained="in1k", drop_path_rate=0.2),
    neck=dict(in_channels=[128, 256, 512]),
)
train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))
param_scheduler = [dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[30], gamma=0.1)]
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.0001),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=0.1)}),
)
sync_bn = None  # no BatchNorm is synchronised
published = dict(box_ap=54.0, params=40, flops=309)
