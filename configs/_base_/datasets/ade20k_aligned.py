# ADE20K, tested with both sides brought to multiples of 32.
_base_ = "ade20k.py"

test_pipeline = [
    *_base_.test_pipeline[:2],
    dict(type="ResizeToMultiple", size_divisor=32),
    *_base_.test_pipeline[2:],
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
