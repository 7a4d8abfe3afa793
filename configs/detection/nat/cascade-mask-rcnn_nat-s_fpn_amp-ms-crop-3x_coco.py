_base_ = "cascade-mask-rcnn_nat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="nat_s", pretrained="in1k", drop_path_rate=0.3),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(
    box_ap=52.0,
    mask_ap=44.9,
    params=108,
    flops=809,
    checkpoint="https://shi-labs.com/projects/nat/checkpoints/DET/nat_small_cascademaskrcnn.pth",
)
