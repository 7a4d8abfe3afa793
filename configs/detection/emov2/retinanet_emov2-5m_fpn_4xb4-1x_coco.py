_base_ = "retinanet_emov2-1m_fpn_4xb4-1x_coco.py"

model = dict(
    backbone=dict(model="emov2_5m", drop_path_rate=0.05),
    neck=dict(in_channels=[72, 160, 288]),
)
published = dict(box_ap=41.5, params=14.4, flops=158)
