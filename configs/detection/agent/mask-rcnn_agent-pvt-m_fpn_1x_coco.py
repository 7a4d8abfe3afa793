_base_ = "mask-rcnn_agent-pvt-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="agent_pvt_m", drop_path_rate=0.1))
published = dict(box_ap=45.9, mask_ap=42.0, params=56, flops=400)
