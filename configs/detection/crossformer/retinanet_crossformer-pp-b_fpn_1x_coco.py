_base_ = "retinanet_crossformer-pp-s_fpn_1x_coco.py"

model = dict(
    backbone=dict(model="crossformer_pp_b", drop_path_rate=0.3),
    neck=dict(in_channels=[192, 384, 768]),
)
published = dict(box_ap=46.6, params=62.2, flops=389.0)
