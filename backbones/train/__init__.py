"""Training, validation and prediction of image classifiers; knows the models through timm only."""
