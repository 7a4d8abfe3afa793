_base_ = "cascade-mask-rcnn_dinat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_b", pretrained="in1k", drop_path_rate=0.6),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(optimizer=dict(lr=0.000075))
published = dict(
    box_ap=53.4,
    mask_ap=46.2,
    params=147,
    flops=931,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/cascadedmaskrcnn_dinat_base.pth",
)
