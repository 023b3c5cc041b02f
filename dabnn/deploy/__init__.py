"""A finished model at work: prepare images, predict, fold, export."""
