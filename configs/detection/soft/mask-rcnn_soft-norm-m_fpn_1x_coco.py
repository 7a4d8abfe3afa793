_base_ = "mask-rcnn_soft-norm-t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model="soft_norm_m"),
    neck=dict(in_channels=[64, 128, 288, 512]),
)
published = dict(box_ap=46.6, mask_ap=42.0, params=65)
