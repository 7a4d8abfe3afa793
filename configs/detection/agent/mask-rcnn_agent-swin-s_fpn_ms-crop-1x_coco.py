_base_ = "mask-rcnn_agent-swin-t_fpn_ms-crop-1x_coco.py"

model = dict(backbone=dict(model="agent_swin_s"))
published = dict(box_ap=47.2, mask_ap=42.7, params=69, flops=364)
