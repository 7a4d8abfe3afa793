# Cascade Mask R-CNN as in MaxViT's detection experiments: FPN of strides 8 to 128 with BatchNorm, anchors of three
# scales, two convolutions in the RPN, and two cascade stages with class-agnostic boxes.
_base_ = "mask-rcnn.py"

norm_cfg = dict(type="BN", eps=1e-3, momentum=0.01)
roi_levels = dict(featmap_strides=[8, 16, 32, 64, 128], finest_scale=112)
model = dict(
    type="CascadeRCNN",
    backbone=dict(out_indices=(1, 2, 3), out_norm=None),
    neck=dict(add_extra_convs="on_output", relu_before_extra_convs=True, norm_cfg=norm_cfg, no_norm_on_lateral=True),
    rpn_head=dict(
        num_convs=2,
        loss_bbox=dict(_delete_=True, type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0),
        anchor_generator=dict(
            _delete_=True,
            type="AnchorGenerator",
            octave_base_scale=3,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
    ),
    roi_head=dict(
        type="CascadeRoIHead",
        num_stages=2,
        stage_loss_weights=[1, 1],
        bbox_roi_extractor=roi_levels,
        bbox_head=[
            dict(
                type="ConvFCBBoxHead",
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=target_stds),
                reg_class_agnostic=True,
                norm_cfg=norm_cfg,
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="SmoothL1Loss", beta=1.0, loss_weight=1.0),
            )
            for target_stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1])
        ],
        mask_roi_extractor=roi_levels,
        mask_head=dict(norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        rcnn=[
            dict(
                assigner=dict(
                    type="MaxIoUAssigner",
                    pos_iou_thr=positive,
                    neg_iou_thr=negative,
                    min_pos_iou=positive,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(type="RandomSampler", num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for positive, negative in ((0.6, 0.5), (0.7, 0.7))
        ],
    ),
)
