"""From a plain model to a dataset-aware one, and back."""
