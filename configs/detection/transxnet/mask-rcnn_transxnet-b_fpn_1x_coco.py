_base_ = "mask-rcnn_transxnet-t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model="transxnet_b", drop_path_rate=0.3),
    neck=dict(in_channels=[76, 152, 336, 672]),
)
published = dict(
    box_ap=48.8,
    mask_ap=43.8,
    checkpoint="https://github.com/LMMMEng/TransXNet/releases/download/v1.0/maskrcnn_base.pth",
)
