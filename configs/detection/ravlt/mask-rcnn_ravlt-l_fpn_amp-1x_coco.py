_base_ = "mask-rcnn_ravlt-t_fpn_amp-1x_coco.py"

model = dict(
    backbone=dict(model="ravlt_l", drop_path_rate=0.55),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
published = dict(
    box_ap=52.3,
    mask_ap=46.4,
    params=114,
    flops=501,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/maskrcnn_l_1x_12_epoch.pth",
)
