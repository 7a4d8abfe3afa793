_base_ = "mask-rcnn_agent-pvt-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="agent_pvt_s", drop_path_rate=0.2))
published = dict(box_ap=44.5, mask_ap=41.2, params=40, flops=293)
