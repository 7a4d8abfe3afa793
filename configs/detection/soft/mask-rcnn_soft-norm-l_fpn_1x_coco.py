_base_ = "mask-rcnn_soft-norm-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="soft_norm_l"))
published = dict(box_ap=47.0, mask_ap=42.2, params=84)
