_base_ = "mask-rcnn_nat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="nat_t", pretrained="in1k", drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
published = dict(
    box_ap=47.7,
    mask_ap=42.6,
    params=48,
    flops=258,
    checkpoint="https://shi-labs.com/projects/nat/checkpoints/DET/nat_tiny_maskrcnn.pth",
)
