_base_ = "mask-rcnn_nat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="nat_s", pretrained="in1k", drop_path_rate=0.35),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(
    box_ap=48.4,
    mask_ap=43.2,
    params=70,
    flops=330,
    checkpoint="https://shi-labs.com/projects/nat/checkpoints/DET/nat_small_maskrcnn.pth",
)
