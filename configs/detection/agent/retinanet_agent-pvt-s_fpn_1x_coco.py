_base_ = "retinanet_agent-pvt-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="agent_pvt_s", drop_path_rate=0.1))
published = dict(box_ap=44.1, params=30, flops=274)
