_base_ = "cascade-mask-rcnn_dinat-m_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_l", pretrained="in22k", drop_path_rate=0.6),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",  # the authors train this size in float32
    optimizer=dict(type="AdamW", lr=0.000075, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=_base_.optim_wrapper.paramwise_cfg,
)
published = dict(
    box_ap=55.3,
    mask_ap=47.8,
    params=258,
    flops=1276,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/cascadedmaskrcnn_dinat_large.pth",
)
