_base_ = "mask-rcnn_transnext-tiny_fpn_amp-1x_coco.py"

model = dict(
    backbone=dict(model="transnext_base", drop_path_rate=0.7),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
published = dict(
    box_ap=51.7,
    mask_ap=45.9,
    params=109.2,
    checkpoint="https://huggingface.co/DaiShiResearch/maskrcnn-transnext-base-coco/resolve/main/mask_rcnn_transnext_base_fpn_1x_coco_in1k.pth",
)
