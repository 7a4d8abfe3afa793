_base_ = [
    "../../_base_/models/semantic-fpn.py",
    "../../_base_/datasets/ade20k_aligned.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/segmentation_runtime.py",
]

cost_size = (1024, 1024)
model = dict(
    backbone=dict(
        model="crossformer_s",
        pretrained="in1k",
        drop_path_rate=0.2,
        # positions at the interval of the whole map form a group, as in the code of these results
        grouping="dense-2021",
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=80000)]
optim_wrapper = dict(optimizer=dict(lr=0.0001))
auto_scale_lr = dict(base_batch_size=16)
published = dict(miou=46.4, params=34.3, flops=209.8)
