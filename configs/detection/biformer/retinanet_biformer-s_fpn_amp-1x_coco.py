_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_box.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    # routing over 16 x 16 regions; BatchNorm keeps its ImageNet statistics
    backbone=dict(model="biformer_s", pretrained="in1k", n_win=16, norm_eval=True, drop_path_rate=0.2),
    neck=dict(in_channels=[128, 256, 512]),
)
optim_wrapper = dict(
    _delete_=True,
    type="AmpOptimWrapper",
    loss_scale=512.0,
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.0001),
)
sync_bn = None  # no BatchNorm is synchronised
published = dict(box_ap=45.9)
