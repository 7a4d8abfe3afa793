_base_ = "cascade-mask-rcnn_nat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="nat_b", pretrained="in1k", drop_path_rate=0.5),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
published = dict(
    box_ap=52.3,
    mask_ap=45.1,
    params=147,
    flops=931,
    checkpoint="https://shi-labs.com/projects/nat/checkpoints/DET/nat_base_cascademaskrcnn.pth",
)
