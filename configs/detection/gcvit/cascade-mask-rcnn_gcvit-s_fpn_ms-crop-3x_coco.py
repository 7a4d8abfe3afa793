_base_ = "cascade-mask-rcnn_gcvit-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="gcvit_s"), neck=dict(in_channels=[96, 192, 384, 768]))
published = dict(box_ap=52.4, mask_ap=45.4, params=108, flops=866)
