# UPerNet with a small NAT, from random weights, on `make demo-segmentation`'s scenes: minutes on two CPU cores.
_base_ = ["../_base_/models/upernet.py", "../_base_/datasets/scenes.py", "../_base_/segmentation_runtime.py"]

# The photograph is five sixths of all pixels, and would be all that is learned for long.
class_weight = [1.0] * 10 + [0.4]
model = dict(
    data_preprocessor=dict(size=(160, 160)),
    backbone=dict(model="nat_m", dims=(32, 64, 128, 256), depths=(1, 1, 2, 1), kernel_size=3, drop_path_rate=0.0),
    decode_head=dict(
        in_channels=[32, 64, 128, 256],
        channels=64,
        dropout_ratio=0.0,
        num_classes=11,
        loss_decode=dict(class_weight=class_weight),
    ),
    auxiliary_head=dict(
        in_channels=128,
        channels=64,
        dropout_ratio=0.0,
        num_classes=11,
        loss_decode=dict(class_weight=class_weight),
    ),
)

train_cfg = dict(type="IterBasedTrainLoop", max_iters=2400, val_interval=400)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=2400, eta_min_ratio=0.01, by_epoch=False),
]
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="backbones.LayerDecayOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=0.003, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={"rpb": dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=400, max_keep_ckpts=1))
env_cfg = dict(cudnn_benchmark=False)
randomness = dict(seed=0)
