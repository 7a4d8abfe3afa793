_base_ = "cascade-mask-rcnn_maxvit-t_fpn_32xb8-amp-lsj-90k_coco-640x640.py"

model = dict(backbone=dict(model="maxvit_b", drop_path_rate=0.3), neck=dict(in_channels=[192, 384, 768]))
published = dict(box_ap=51.59, mask_ap=44.07)
