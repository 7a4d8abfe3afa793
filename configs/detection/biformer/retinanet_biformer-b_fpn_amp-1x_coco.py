_base_ = "retinanet_biformer-s_fpn_amp-1x_coco.py"

model = dict(backbone=dict(model="biformer_b", drop_path_rate=0.3), neck=dict(in_channels=[192, 384, 768]))
published = dict(box_ap=47.1)
