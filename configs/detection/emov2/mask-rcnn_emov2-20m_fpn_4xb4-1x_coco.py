_base_ = "mask-rcnn_emov2-1m_fpn_4xb4-1x_coco.py"

model = dict(
    backbone=dict(model="emov2_20m", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 448]),
)
published = dict(box_ap=44.2, mask_ap=40.6, params=39.8, flops=244)
