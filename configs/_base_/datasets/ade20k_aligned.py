# ADE20K, tested with both sides brought to multiples of 32, at every scale.
_base_ = "ade20k.py"

test_pipeline = [
    *_base_.test_pipeline[:2],
    dict(type="ResizeToMultiple", size_divisor=32),
    *_base_.test_pipeline[2:],
]
tta_pipeline = [
    _base_.tta_pipeline[0],
    dict(
        type="TestTimeAug",
        transforms=[
            _base_.tta_pipeline[1]["transforms"][0],
            [dict(type="ResizeToMultiple", size_divisor=32)],
            *_base_.tta_pipeline[1]["transforms"][1:],
        ],
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
