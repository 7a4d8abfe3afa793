_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="smt_s", pretrained="in1k", drop_path_rate=0.2, drop_values=True),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.00006, betas=(0.9, 0.999), weight_decay=0.01),
)
# the backbone's BatchNorms are not synchronised
sync_bn = None
custom_hooks = [dict(type="backbones.SyncBatchNormHook", parts=["decode_head", "auxiliary_head"])]
published = dict(miou=49.2, miou_ms=50.2, params=50, flops=935)
