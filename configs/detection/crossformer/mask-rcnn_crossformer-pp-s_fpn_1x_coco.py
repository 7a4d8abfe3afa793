_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

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
# everything is decayed
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.0001),
)
published = dict(box_ap=46.4, mask_ap=42.1, params=43.0, flops=287.4)
