# Mask2Former for semantic segmentation. A config gives backbone.model and, in decode_head, in_channels, num_queries and
# the classes (the 150 of ADE20K by default).
_base_ = "mask2former-head.py"

num_classes = 150
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(640, 640),
        test_cfg=dict(size_divisor=32),
    ),
    backbone=dict(type="backbones.Backbone", out_indices=(0, 1, 2, 3)),
    decode_head=dict(
        type="Mask2FormerHead",
        **_base_.mask2former_head,
        num_classes=num_classes,
        align_corners=False,
        train_cfg=_base_.mask2former_train_cfg,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
model["decode_head"]["loss_cls"]["class_weight"] = [1.0] * num_classes + [0.1]
