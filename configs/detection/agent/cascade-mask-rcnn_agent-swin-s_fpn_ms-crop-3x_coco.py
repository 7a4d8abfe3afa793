_base_ = "cascade-mask-rcnn_agent-swin-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="agent_swin_s"))
published = dict(box_ap=52.6, mask_ap=45.5, params=107, flops=843)
