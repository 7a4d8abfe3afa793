_base_ = [
    "../../_base_/models/semantic-fpn.py",
    "../../_base_/datasets/ade20k_aligned.py",
    "../../_base_/schedules/ade20k_80k.py",
    "../../_base_/segmentation_runtime.py",
]

cost_size = (1024, 1024)
model = dict(
    backbone=dict(
        model="crossformer_pp_s",
        pretrained="in1k",
        drop_path_rate=0.2,
        # positions at the interval of the whole map form a group: the published FLOPs are those of that code
        grouping="dense-2021",
        group_sizes=(7, 7, 7, 7),
        intervals=(8, 4, 2, 1),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=False, begin=0, end=80000)]
optim_wrapper = dict(optimizer=dict(lr=0.0001))
auto_scale_lr = dict(base_batch_size=16)
published = dict(miou=47.4, params=27.1, flops=199.5)
