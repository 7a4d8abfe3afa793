_base_ = "mask-rcnn_ravlt-s_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="ravlt_b", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
published = dict(
    box_ap=52.7,
    mask_ap=46.4,
    params=67,
    flops=372,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/maskrcnn_b_3x_36_epoch.pth",
)
