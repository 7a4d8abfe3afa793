# The authors' config builds another model, of FasterNet-S's sizes (128 channels, 1, 2, 13, 2 blocks), and starts from
# unpublished weights of 81.284 % top-1.
_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="patnet_s", pretrained="in1k", attn_drop_rate=0.1, drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0002, betas=(0.9, 0.999), weight_decay=0.0001),
)
sync_bn = None  # no BatchNorm is synchronised
