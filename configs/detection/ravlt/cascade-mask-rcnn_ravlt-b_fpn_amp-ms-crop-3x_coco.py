_base_ = "cascade-mask-rcnn_ravlt-s_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="ravlt_b", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
published = dict(
    box_ap=55.3,
    mask_ap=47.7,
    params=105,
    flops=851,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/Casmaskrcnn_b_3x_36_epoch.pth",
)
