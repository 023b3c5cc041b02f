"""From a config to datasets, loaders, model and optimizer."""
