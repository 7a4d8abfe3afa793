_base_ = "mask-rcnn_dinat-s-t_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="dinat_s_s", pretrained="in1k", drop_path_rate=0.35),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(
    box_ap=48.6,
    mask_ap=43.5,
    params=69,
    flops=350,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/coco/maskrcnn_dinat_s_small.pth",
)
