_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="agent_pvt_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# everything is decayed
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0002, betas=(0.9, 0.999), weight_decay=0.0001),
)
published = dict(box_ap=41.4, mask_ap=38.7, params=31, flops=230)
