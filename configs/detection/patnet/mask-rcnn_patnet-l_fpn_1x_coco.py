# The authors' config builds another model, of FasterNet-L's sizes (192 channels, 3, 4, 18, 3 blocks), and starts from
# unpublished weights of 83.506 % top-1.
_base_ = "mask-rcnn_patnet-s_fpn_1x_coco.py"

model = dict(
    backbone=dict(model="patnet_l", drop_path_rate=0.3),
    neck=dict(in_channels=[160, 320, 640, 1280]),
)
optim_wrapper = dict(optimizer=dict(lr=0.0001))
