_base_ = "cascade-mask-rcnn_gcvit-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="gcvit_b"), neck=dict(in_channels=[128, 256, 512, 1024]))
published = dict(box_ap=52.9, mask_ap=45.8, params=146, flops=1018)
