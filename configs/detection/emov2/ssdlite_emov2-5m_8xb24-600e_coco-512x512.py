_base_ = "ssdlite_emov2-1m_8xb24-600e_coco-512x512.py"

model = dict(
    backbone=dict(model="emov2_5m", drop_path_rate=0.05),
    neck=dict(in_channels=[160, 288], out_channels=[160, 288, 512, 256, 256, 128]),
    bbox_head=dict(in_channels=[160, 288, 512, 256, 256, 128]),
)
published = dict(box_ap=34.8, flops=8.0)
