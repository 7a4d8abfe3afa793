_base_ = "retinanet_transxnet-t_fpn_1x_coco.py"

model = dict(
    backbone=dict(model="transxnet_s", drop_path_rate=0.2),
    neck=dict(in_channels=[128, 320, 512]),
)
published = dict(
    box_ap=46.4, checkpoint="https://github.com/LMMMEng/TransXNet/releases/download/v1.0/retinanet_small.pth"
)
