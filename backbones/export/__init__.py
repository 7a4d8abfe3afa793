"""Models as ONNX files and `torch.export` programs, each run and compared with the model in PyTorch."""
