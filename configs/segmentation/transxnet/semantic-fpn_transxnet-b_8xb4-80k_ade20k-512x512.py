_base_ = "semantic-fpn_transxnet-t_8xb4-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="transxnet_b", drop_path_rate=0.3),
    neck=dict(in_channels=[76, 152, 336, 672]),
)
published = dict(
    miou=49.9, checkpoint="https://github.com/LMMMEng/TransXNet/releases/download/v1.0/sfpn_transxnet_base.pth"
)
