_base_ = "retinanet_ravlt-t_fpn_amp-1x_coco.py"

model = dict(
    backbone=dict(model="ravlt_b", drop_path_rate=0.4),
    neck=dict(in_channels=[192, 384, 512]),
)
published = dict(
    box_ap=49.8,
    params=57,
    flops=353,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/retinanet_b_1x_12_epoch.pth",
)
