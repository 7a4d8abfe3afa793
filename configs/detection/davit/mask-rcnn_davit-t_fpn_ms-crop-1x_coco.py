# The authors publish configs of the tiny model alone, whose settings the others take over. Everything is decayed.
_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="davit_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))
published = dict(
    box_ap=45.0,
    mask_ap=41.1,
    params=47.8,
    flops=263,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/ERgc6486IzJPpPWDPJUwKP0BCc4oFtTgdudnPmmPqozqug?e=QWsLYg",
)
