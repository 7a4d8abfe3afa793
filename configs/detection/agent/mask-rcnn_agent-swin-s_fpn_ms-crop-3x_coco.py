_base_ = "mask-rcnn_agent-swin-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="agent_swin_s"))
published = dict(box_ap=48.9, mask_ap=43.8, params=69, flops=364)
