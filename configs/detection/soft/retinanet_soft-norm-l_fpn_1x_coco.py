_base_ = "retinanet_soft-norm-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="soft_norm_l"))
published = dict(box_ap=45.3, params=74)
