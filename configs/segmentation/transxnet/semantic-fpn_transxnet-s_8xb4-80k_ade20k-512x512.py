_base_ = "semantic-fpn_transxnet-t_8xb4-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="transxnet_s", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
published = dict(
    miou=48.5, checkpoint="https://github.com/LMMMEng/TransXNet/releases/download/v1.0/sfpn_transxnet_small.pth"
)
