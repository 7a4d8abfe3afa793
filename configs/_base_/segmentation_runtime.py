custom_imports = dict(imports=["backbones.dense"], allow_failed_imports=False)
default_scope = "mmseg"

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=16000, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0))
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
log_processor = dict(by_epoch=False)
log_level = "INFO"
sync_bn = "torch"  # BatchNorm sees the whole batch of a distributed run
tta_model = dict(type="SegTTAModel")
load_from = None
resume = False
