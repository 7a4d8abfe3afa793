_base_ = "mask-rcnn_overlock-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="overlock_s", drop_path_rate=0.4), neck=dict(in_channels=[64, 128, 448, 640]))
published = dict(
    box_ap=51.0,
    mask_ap=45.0,
    checkpoint="https://github.com/LMMMEng/OverLoCK/releases/download/v1/maskrcnn3x_overlock_small_coco.pth",
)
