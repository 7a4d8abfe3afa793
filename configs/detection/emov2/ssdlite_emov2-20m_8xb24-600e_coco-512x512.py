_base_ = "ssdlite_emov2-1m_8xb24-600e_coco-512x512.py"

model = dict(
    backbone=dict(model="emov2_20m", drop_path_rate=0.1),
    neck=dict(in_channels=[320, 448], out_channels=[320, 448, 512, 256, 256, 128]),
    bbox_head=dict(in_channels=[320, 448, 512, 256, 256, 128]),
)
published = dict(box_ap=38.3, flops=30.3)
