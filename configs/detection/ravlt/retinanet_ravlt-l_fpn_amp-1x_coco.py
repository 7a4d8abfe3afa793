_base_ = "retinanet_ravlt-t_fpn_amp-1x_coco.py"

model = dict(
    backbone=dict(model="ravlt_l", drop_path_rate=0.55),
    neck=dict(in_channels=[192, 448, 640]),
)
published = dict(
    box_ap=50.9,
    params=104,
    flops=482,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/retinanet_l_1x_12_epoch.pth",
)
