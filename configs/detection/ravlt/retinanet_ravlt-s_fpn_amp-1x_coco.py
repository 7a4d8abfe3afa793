_base_ = "retinanet_ravlt-t_fpn_amp-1x_coco.py"

model = dict(
    backbone=dict(model="ravlt_s", drop_path_rate=0.15),
    neck=dict(in_channels=[128, 320, 512]),
)
published = dict(
    box_ap=48.3,
    params=34,
    flops=244,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/retinanet_s_1x_12_epoch.pth",
)
