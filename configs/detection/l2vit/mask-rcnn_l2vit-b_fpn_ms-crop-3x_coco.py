_base_ = "mask-rcnn_l2vit-t_fpn_ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="l2vit_b", drop_path_rate=0.3),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
