_base_ = "mask-rcnn_transxnet-t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model="transxnet_s", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
published = dict(
    box_ap=47.7,
    mask_ap=43.1,
    checkpoint="https://github.com/LMMMEng/TransXNet/releases/download/v1.0/maskrcnn_small.pth",
)
