_base_ = "cascade-mask-rcnn_maxvit-t_fpn_32xb8-amp-lsj-90k_coco-896x896.py"

model = dict(backbone=dict(model="maxvit_b", drop_path_rate=0.8), neck=dict(in_channels=[192, 384, 768]))
published = dict(box_ap=53.47, mask_ap=45.96, params=157, flops=856)
