_base_ = "mask-rcnn_ravlt-t_fpn_amp-1x_coco.py"

model = dict(
    backbone=dict(model="ravlt_b", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
published = dict(
    box_ap=51.2,
    mask_ap=45.7,
    params=67,
    flops=372,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/maskrcnn_b_1x_12_epoch.pth",
)
