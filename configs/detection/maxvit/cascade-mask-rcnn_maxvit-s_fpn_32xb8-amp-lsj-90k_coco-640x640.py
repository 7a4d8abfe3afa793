_base_ = "cascade-mask-rcnn_maxvit-t_fpn_32xb8-amp-lsj-90k_coco-640x640.py"

model = dict(
    # the rate of this size at 640 is not published; this is the one of the base model
    backbone=dict(model="maxvit_s", drop_path_rate=0.3),
    neck=dict(in_channels=[192, 384, 768]),
)
published = dict(box_ap=50.79, mask_ap=43.36)
