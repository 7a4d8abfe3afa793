_base_ = "upernet_agent-swin-t_8xb2-160k_ade20k-512x512.py"

model = dict(backbone=dict(model="agent_swin_s"))
published = dict(miou=48.08, params=81, flops=1043)
