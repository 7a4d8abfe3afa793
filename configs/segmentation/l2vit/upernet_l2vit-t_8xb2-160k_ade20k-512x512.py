# As in the authors' config; its results are not known. Everything is decayed.
_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="l2vit_t", pretrained="in1k", drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))
# the backbone's BatchNorms are not synchronised
sync_bn = None
custom_hooks = [dict(type="backbones.SyncBatchNormHook", parts=["decode_head", "auxiliary_head"])]
