_base_ = "retinanet_agent-pvt-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="agent_pvt_m", drop_path_rate=0.2))
published = dict(box_ap=45.8, params=46, flops=382)
