_base_ = "cascade-mask-rcnn_dinat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_s", pretrained="in1k", drop_path_rate=0.5),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(
    box_ap=52.9,
    mask_ap=45.8,
    params=108,
    flops=809,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/cascadedmaskrcnn_dinat_small.pth",
)
