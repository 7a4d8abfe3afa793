_base_ = [
    "../../_base_/models/segformer.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k_flat-cosine.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="emov2_1m", pretrained="in1k", drop_path_rate=0.04036),
    decode_head=dict(in_channels=[32, 48, 80, 180], channels=180),
)
train_dataloader = dict(batch_size=8)
# the backbone's BatchNorms are not synchronised
sync_bn = None
custom_hooks = [dict(type="backbones.SyncBatchNormHook", parts=["decode_head"])]
cost_size = (512, 512)
published = dict(miou=37.0, params=1.4, flops=5.0)
