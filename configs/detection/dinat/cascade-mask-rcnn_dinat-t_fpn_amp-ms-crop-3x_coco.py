_base_ = "cascade-mask-rcnn_dinat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_t", pretrained="in1k", drop_path_rate=0.3),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
published = dict(
    box_ap=52.2,
    mask_ap=45.1,
    params=85,
    flops=737,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/cascadedmaskrcnn_dinat_tiny.pth",
)
