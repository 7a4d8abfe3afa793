_base_ = "mask-rcnn_overlock-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="overlock_b", drop_path_rate=0.6), neck=dict(in_channels=[80, 160, 528, 720]))
published = dict(
    box_ap=51.4,
    mask_ap=45.3,
    checkpoint="https://github.com/LMMMEng/OverLoCK/releases/download/v1/maskrcnn3x_overlock_base_coco.pth",
)
