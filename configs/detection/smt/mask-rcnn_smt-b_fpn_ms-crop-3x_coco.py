_base_ = "mask-rcnn_smt-s_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="smt_b", drop_path_rate=0.3))
published = dict(box_ap=49.8, mask_ap=44.0, params=52, flops=328)
