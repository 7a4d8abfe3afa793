_base_ = "cascade-mask-rcnn_nat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="nat_t", pretrained="in1k", drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
published = dict(
    box_ap=51.4,
    mask_ap=44.5,
    params=85,
    flops=737,
    checkpoint="https://shi-labs.com/projects/nat/checkpoints/DET/nat_tiny_cascademaskrcnn.pth",
)
