# The authors state no more than the result and "3x": scales and crops are those of Swin's 3x schedule.
_base_ = [
    "../../_base_/models/cascade-mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
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
published = dict(box_ap=52.2, mask_ap=45.2, params=88.0, flops=769.7)
