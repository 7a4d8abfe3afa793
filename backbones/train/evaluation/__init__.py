"""Loading trained models, measuring them on labelled images, and predicting."""
