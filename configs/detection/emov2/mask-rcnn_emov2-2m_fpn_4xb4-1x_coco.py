_base_ = "mask-rcnn_emov2-1m_fpn_4xb4-1x_coco.py"

model = dict(
    backbone=dict(model="emov2_2m", drop_path_rate=0.05),
    neck=dict(in_channels=[32, 48, 120, 200]),
)
published = dict(box_ap=39.5, mask_ap=36.9, params=22.1, flops=170)
