"""The data: datasets, reading of images, order and augmentation of samples, loader processes."""
