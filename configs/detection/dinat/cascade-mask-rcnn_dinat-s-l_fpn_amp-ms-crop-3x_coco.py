_base_ = "cascade-mask-rcnn_dinat-s-t_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_s_l", pretrained="in22k", drop_path_rate=0.6),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(optimizer=dict(lr=0.00005))
published = dict(
    box_ap=54.8,
    mask_ap=47.2,
    params=253,
    flops=1357,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/cascadedmaskrcnn_dinat_s_large.pth",
)
