_base_ = [
    "../../_base_/models/pspnet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_80k_flat-cosine.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="emov2_1m", pretrained="in1k", drop_path_rate=0.04036),
    decode_head=dict(in_channels=180, channels=256),
    auxiliary_head=dict(in_channels=80),
)
train_dataloader = dict(batch_size=8)
# the backbone's BatchNorms are not synchronised
sync_bn = None
custom_hooks = [dict(type="backbones.SyncBatchNormHook", parts=["decode_head", "auxiliary_head"])]
cost_size = (512, 512)
published = dict(miou=33.6, params=4.2, flops=2.9)
