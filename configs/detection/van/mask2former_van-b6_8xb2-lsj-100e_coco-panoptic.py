# The paper states no settings: those of Mask2Former's largest model, and the drop path of ADE20K.
_base_ = [
    "../../_base_/models/mask2former.py",
    "../../_base_/datasets/coco_panoptic_lsj.py",
    "../../_base_/schedules/mask2former_coco.py",
    "../../_base_/detection_runtime_iters.py",
]

custom_imports = dict(imports=["backbones.dense", "backbones.dense.panoptic"])
model = dict(
    backbone=dict(model="van_b6", pretrained="in22k", drop_path_rate=0.5),
    panoptic_head=dict(in_channels=[96, 192, 384, 768], num_queries=200),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            **{f"blocks.{j}.norm{i}.": dict(lr_mult=0.1, decay_mult=0.0) for j in range(90) for i in (1, 2)},
            **{f"stages.{i}.norm.": dict(lr_mult=0.1, decay_mult=0.0) for i in range(4)},
        }
    )
)
published = dict(pq=58.2)
