_base_ = [
    "../../_base_/models/cascade-mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="smt_s", pretrained="in1k", drop_path_rate=0.2, drop_values=True),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
# everything is decayed
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
)
# the backbone's BatchNorms are not synchronised, those of the box heads are
sync_bn = None
custom_hooks = [dict(type="backbones.SyncBatchNormHook", parts=["roi_head"])]
published = dict(box_ap=51.9, mask_ap=44.7, params=78, flops=744)
