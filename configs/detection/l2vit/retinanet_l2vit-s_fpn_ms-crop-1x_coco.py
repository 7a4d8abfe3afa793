_base_ = "retinanet_l2vit-t_fpn_ms-crop-1x_coco.py"

model = dict(backbone=dict(model="l2vit_s"))
