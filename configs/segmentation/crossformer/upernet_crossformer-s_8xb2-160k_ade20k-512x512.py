_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k_aligned.py",
    "../../_base_/schedules/ade20k_160k.py",
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
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
published = dict(miou=47.6, miou_ms=48.4, params=62.3, flops=979.5)
