_base_ = "cascade-mask-rcnn_mavit-b_fpn_amp-ms-crop-3x_coco.py"

model = dict(
    backbone=dict(model="mavit_l", drop_path_rate=0.55),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
train_dataloader = dict(batch_size=1)
optim_wrapper = dict(optimizer=dict(lr=0.0002))
auto_scale_lr = dict(base_batch_size=8)
