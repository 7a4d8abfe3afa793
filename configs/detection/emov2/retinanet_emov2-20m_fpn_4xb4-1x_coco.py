_base_ = "retinanet_emov2-1m_fpn_4xb4-1x_coco.py"

model = dict(
    backbone=dict(model="emov2_20m", drop_path_rate=0.1),
    neck=dict(in_channels=[128, 320, 448]),
)
published = dict(box_ap=43.8, params=29.8, flops=220)
