_base_ = "mask-rcnn_emov2-1m_fpn_4xb4-1x_coco.py"

model = dict(
    backbone=dict(model="emov2_5m", drop_path_rate=0.05),
    neck=dict(in_channels=[48, 72, 160, 288]),
)
published = dict(box_ap=42.3, mask_ap=39.0, params=24.8, flops=181)
