_base_ = "retinanet_emov2-1m_fpn_4xb4-1x_coco.py"

model = dict(
    backbone=dict(model="emov2_2m", drop_path_rate=0.05),
    neck=dict(in_channels=[48, 120, 200]),
)
published = dict(box_ap=39.3, params=11.5, flops=146)
