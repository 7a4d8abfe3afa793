_base_ = "cascade-mask-rcnn_agent-swin-t_fpn_ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="agent_swin_b", drop_path_rate=0.4),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
published = dict(box_ap=52.6, mask_ap=45.3, params=145, flops=990)
