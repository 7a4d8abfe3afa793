# The authors publish configs of the tiny model alone, whose settings the others take over. Everything is decayed.
_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_box_ms-crop.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="davit_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))
published = dict(
    box_ap=44.0,
    params=38.5,
    flops=244,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/EdNCWmdUArpPgjNn2JY37_QBs5KVNy8d-8bNK7DNyjYHyg?e=osMprJ",
)
