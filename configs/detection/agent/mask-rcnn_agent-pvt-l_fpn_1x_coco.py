_base_ = "mask-rcnn_agent-pvt-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="agent_pvt_l", drop_path_rate=0.2))
published = dict(box_ap=46.9, mask_ap=42.8, params=68, flops=510)
