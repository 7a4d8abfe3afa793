# The authors publish a config of the tiny model alone, whose settings the others take over. Everything is decayed.
# Whether their mIoU is of one scale or of several is not said.
_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="davit_t", pretrained="in1k", drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))
sync_bn = None  # no BatchNorm is synchronised
published = dict(
    miou=46.3,
    params=60,
    flops=940,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/ERajqEKtzIBGgX2slZxCYrEBoEL-ZnLkUaXP9SHT-rp13w?e=Ga9U8a",
)
