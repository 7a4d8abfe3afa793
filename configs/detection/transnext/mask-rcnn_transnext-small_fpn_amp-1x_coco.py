_base_ = "mask-rcnn_transnext-tiny_fpn_amp-1x_coco.py"

model = dict(
    backbone=dict(model="transnext_small", drop_path_rate=0.6),
)
published = dict(
    box_ap=51.1,
    mask_ap=45.5,
    params=69.3,
    checkpoint="https://huggingface.co/DaiShiResearch/maskrcnn-transnext-small-coco/resolve/main/mask_rcnn_transnext_small_fpn_1x_coco_in1k.pth",
)
