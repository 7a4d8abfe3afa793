# DeepLabv3 (arXiv 1706.05587) on the last map, with an auxiliary FCN head on stride 16. A config gives backbone.model
# and in_channels.
_base_ = "upernet.py"

model = dict(
    decode_head=dict(
        _delete_=True,
        type="ASPPHead",
        in_index=3,
        channels=512,
        dilations=(1, 12, 24, 36),
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    )
)
