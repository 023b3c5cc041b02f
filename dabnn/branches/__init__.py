"""The life of a dataset in a converted model: add, save, recalibrate, recognise, remove."""
