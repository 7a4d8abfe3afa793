_base_ = "cascade-mask-rcnn_dinat-s-t_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_s_s", pretrained="in1k", drop_path_rate=0.5),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(
    box_ap=52.3,
    mask_ap=45.2,
    params=107,
    flops=829,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/cascadedmaskrcnn_dinat_s_small.pth",
)
