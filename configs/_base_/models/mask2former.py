# Mask2Former for panoptic and instance segmentation. A config gives backbone.model, and in panoptic_head in_channels,
# num_queries and the classes (80 things and 53 stuff regions of COCO by default). Images of
# the training are padded to 1024 x 1024.
_base_ = "mask2former-head.py"

num_things_classes, num_stuff_classes = 80, 53
model = dict(
    type="Mask2Former",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        pad_mask=True,
        mask_pad_value=0,
        pad_seg=True,
        seg_pad_value=255,
        batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), pad_mask=True, pad_seg=True)],
    ),
    backbone=dict(type="backbones.Backbone", out_indices=(0, 1, 2, 3)),
    panoptic_head=dict(
        type="Mask2FormerHead",
        **_base_.mask2former_head,
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
    ),
    panoptic_fusion_head=dict(
        type="MaskFormerFusionHead",
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        loss_panoptic=None,
    ),
    train_cfg=_base_.mask2former_train_cfg,
    test_cfg=dict(
        panoptic_on=True,
        semantic_on=False,
        instance_on=True,
        max_per_image=100,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
model["panoptic_head"]["loss_cls"]["class_weight"] = [1.0] * (num_things_classes + num_stuff_classes) + [0.1]
