_base_ = "mask-rcnn_crossformer-s_fpn_1x_coco.py"

model = dict(backbone=dict(model="crossformer_b", drop_path_rate=0.3))
published = dict(box_ap=47.2, mask_ap=42.7, params=71.5, flops=407.9)
