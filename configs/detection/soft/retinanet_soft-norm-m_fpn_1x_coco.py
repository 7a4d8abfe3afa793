_base_ = "retinanet_soft-norm-t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model="soft_norm_m"),
    neck=dict(in_channels=[128, 288, 512]),
)
published = dict(box_ap=44.3, params=55)
