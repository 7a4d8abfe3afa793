# 737,500 iterations (100 epochs) of COCO in batches of 16; a tenth of the learning rate in the backbone. No decay of
# norms and of the decoder's embeddings.
train_cfg = dict(type="IterBasedTrainLoop", max_iters=737500, val_interval=7375)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
param_scheduler = [
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=737500, milestones=[655556, 710184], gamma=0.1)
]
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            "backbone": dict(lr_mult=0.1),
            # the longest name that fits decides, so these are norms of the backbone
            "backbone.out_norms": dict(lr_mult=0.1, decay_mult=0.0),
            "backbone.model.stem.norm": dict(lr_mult=0.1, decay_mult=0.0),
            "downsample.norm": dict(lr_mult=0.1, decay_mult=0.0),
            **{
                f"backbone.model.stages.{stage}.blocks.{block}.{norm}.": dict(lr_mult=0.1, decay_mult=0.0)
                for stage, depth in enumerate((3, 4, 18, 5))
                for block in range(depth)
                for norm in ("norm1", "norm2")
            },
            "query_embed": dict(decay_mult=0.0),
            "query_feat": dict(decay_mult=0.0),
            "level_embed": dict(decay_mult=0.0),
        },
    ),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
