_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]
custom_imports = dict(imports=["backbones.dense", "backbones.dense.necks"], allow_failed_imports=False)

model = dict(
    # strides 16, 32 and 64, without norms; the neck adds 4 and 8
    backbone=dict(model="shvit_s4", pretrained="in1k", out_indices=(0, 1, 2), norm_eval=True),
    neck=dict(type="backbones.TransposedFPN", in_channels=[224, 336, 448], num_extra_trans_convs=2),
)
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))  # everything is decayed
sync_bn = None  # no BatchNorm is synchronised
published = dict(
    box_ap=39.0,
    mask_ap=35.9,
    checkpoint="https://github.com/ysj9909/SHViT/releases/download/v1.0/maskrcnn_shvit_s4_1x_coco.pth",
)
