# Drop path is not in the authors' configs: that of their detectors.
_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    # position biases are those of images of 512 x 512, interpolated in the multi-scale test
    backbone=dict(model="transnext_tiny", pretrained="in1k", bias_size=512, drop_path_rate=0.4),
    decode_head=dict(in_channels=[72, 144, 288, 576]),
    auxiliary_head=dict(in_channels=288),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={
            "query_embedding": dict(decay_mult=0.0),
            "relative_pos_bias_local": dict(decay_mult=0.0),
            "rel_pos": dict(decay_mult=0.0),
            "temperature": dict(decay_mult=0.0),
        }
    ),
)
published = dict(
    miou=51.1,
    miou_ms=51.5,
    params=59,
    checkpoint="https://huggingface.co/DaiShiResearch/upernet-transnext-tiny-ade/resolve/main/upernet_transnext_tiny_512x512_160k_ade20k_in1k.pth",
)
