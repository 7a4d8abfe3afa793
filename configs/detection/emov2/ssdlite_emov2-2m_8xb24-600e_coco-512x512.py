_base_ = "ssdlite_emov2-1m_8xb24-600e_coco-512x512.py"

model = dict(
    backbone=dict(model="emov2_2m", drop_path_rate=0.05),
    neck=dict(in_channels=[120, 200], out_channels=[120, 200, 512, 256, 256, 128]),
    bbox_head=dict(in_channels=[120, 200, 512, 256, 256, 128]),
)
published = dict(box_ap=30.7, flops=4.0)
