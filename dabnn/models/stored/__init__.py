"""A dataset-aware model as a folder."""
