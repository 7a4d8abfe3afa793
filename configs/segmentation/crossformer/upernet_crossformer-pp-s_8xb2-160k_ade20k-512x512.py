_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k_aligned.py",
    "../../_base_/schedules/ade20k_160k.py",
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
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
# these norms have no "norm" in the authors' names, so they are decayed
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"cooling.norm": dict(decay_mult=1.0)}))
published = dict(miou=49.4, miou_ms=50.8, params=53.1, flops=963.5)
