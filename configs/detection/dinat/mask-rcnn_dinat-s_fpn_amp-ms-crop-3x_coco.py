_base_ = "mask-rcnn_dinat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_s", pretrained="in1k", drop_path_rate=0.35),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(
    box_ap=49.3,
    mask_ap=44.0,
    params=70,
    flops=330,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/maskrcnn_dinat_small.pth",
)
