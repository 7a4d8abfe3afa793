# The authors' config builds another model, of FasterNet-M's sizes (144 channels, 3, 4, 18, 3 blocks), and starts from
# unpublished weights of 82.962 % top-1.
_base_ = "mask-rcnn_patnet-s_fpn_1x_coco.py"

model = dict(
    backbone=dict(model="patnet_m", drop_path_rate=0.2),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0001))
