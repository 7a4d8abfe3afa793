# Mask R-CNN with a small NAT, from random weights, on `make demo-detection`'s scenes: minutes on two CPU cores.
_base_ = ["../_base_/models/mask-rcnn.py", "../_base_/datasets/scenes_instance.py", "../_base_/detection_runtime.py"]

width = 64
model = dict(
    backbone=dict(model="nat_m", dims=(32, 64, 128, 256), depths=(1, 1, 2, 1), kernel_size=3, drop_path_rate=0.0),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=width, num_outs=4, norm_cfg=dict(type="GN", num_groups=8)),
    rpn_head=dict(
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32]),  # digits are 20 to 60 pixels high
    ),
    # Small regions are cut from finer maps than COCO's: those of 28 to 56 pixels from stride 8.
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width, finest_scale=14),
        bbox_head=dict(in_channels=width, fc_out_channels=256, num_classes=10, reg_class_agnostic=True),
        mask_roi_extractor=dict(out_channels=width, finest_scale=28),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_convs=2, num_classes=10),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=60),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50), rcnn=dict(max_per_img=30)),
)

max_epochs = 6
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=max_epochs, eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="backbones.LayerDecayOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=0.002, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"rpb": dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
