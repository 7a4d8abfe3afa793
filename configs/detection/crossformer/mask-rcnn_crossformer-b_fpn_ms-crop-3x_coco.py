_base_ = "mask-rcnn_crossformer-s_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="crossformer_b", drop_path_rate=0.3))
published = dict(box_ap=49.8, mask_ap=44.5, flops=398.1)
