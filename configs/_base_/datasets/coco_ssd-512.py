# COCO boxes at 512 x 512 without regard to the aspect, with SSD's augmentation.
_base_ = "coco_ssd-320.py"

image_size = (512, 512)
cost_size = image_size
train_pipeline = [dict(step, scale=image_size) if step["type"] == "Resize" else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=image_size) if step["type"] == "Resize" else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
