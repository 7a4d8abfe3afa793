_base_ = "mask-rcnn_ravlt-t_fpn_amp-1x_coco.py"

model = dict(
    backbone=dict(model="ravlt_s", drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
published = dict(
    box_ap=49.8,
    mask_ap=44.6,
    params=44,
    flops=262,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/maskrcnn_s_1x_12_epoch.pth",
)
