_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_box.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="agent_pvt_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[128, 320, 512]),
)
# everything is decayed
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.0001),
)
published = dict(box_ap=40.3, params=21, flops=211)
