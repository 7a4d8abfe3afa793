_base_ = "mask-rcnn_dinat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_t", pretrained="in1k", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
published = dict(
    box_ap=48.6,
    mask_ap=43.5,
    params=48,
    flops=258,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/maskrcnn_dinat_tiny.pth",
)
