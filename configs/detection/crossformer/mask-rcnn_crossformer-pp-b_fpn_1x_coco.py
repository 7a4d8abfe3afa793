_base_ = "mask-rcnn_crossformer-pp-s_fpn_1x_coco.py"

model = dict(
    backbone=dict(model="crossformer_pp_b", drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(box_ap=47.7, mask_ap=43.2, params=71.5, flops=408.0)
