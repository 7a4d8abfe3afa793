_base_ = "mask-rcnn_overlock-t_fpn_1x_coco.py"

model = dict(backbone=dict(model="overlock_b", drop_path_rate=0.6), neck=dict(in_channels=[80, 160, 528, 720]))
published = dict(
    box_ap=49.9,
    mask_ap=44.4,
    checkpoint="https://github.com/LMMMEng/OverLoCK/releases/download/v1/maskrcnn1x_overlock_base_coco.pth",
)
