_base_ = "mask-rcnn_biformer-s_fpn_amp-1x_coco.py"

model = dict(backbone=dict(model="biformer_b", drop_path_rate=0.3), neck=dict(in_channels=[96, 192, 384, 768]))
published = dict(box_ap=48.6, mask_ap=43.7)
