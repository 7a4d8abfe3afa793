# The authors state 34 M parameters, as if the backbone had 24 M; their code's has 39 M.
_base_ = "retinanet_soft-norm-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="soft_norm_s"))
published = dict(_delete_=True, box_ap=42.8)
