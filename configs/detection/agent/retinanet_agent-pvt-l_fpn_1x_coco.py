_base_ = "retinanet_agent-pvt-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="agent_pvt_l", drop_path_rate=0.3))
published = dict(box_ap=46.8, params=58, flops=492)
