_base_ = "retinanet_crossformer-s_fpn_1x_coco.py"

model = dict(backbone=dict(model="crossformer_b", drop_path_rate=0.3))
published = dict(box_ap=46.2, params=62.1, flops=389.0)
