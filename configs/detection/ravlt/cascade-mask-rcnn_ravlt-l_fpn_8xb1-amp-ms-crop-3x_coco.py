_base_ = "cascade-mask-rcnn_ravlt-s_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="ravlt_l", drop_path_rate=0.55),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
published = dict(
    box_ap=55.6,
    mask_ap=48.0,
    params=152,
    flops=979,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/Casmaskrcnn_l_3x_36_epoch.pth",
)
