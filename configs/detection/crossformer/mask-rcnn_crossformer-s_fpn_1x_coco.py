_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

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
# everything is decayed
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.0001),
)
published = dict(box_ap=45.4, mask_ap=41.4, params=50.2, flops=301.0)
