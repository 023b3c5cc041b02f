"""An earlier place of `dabnn.export_model`."""

from dabnn.deploy.export import export_model

__all__ = ["export_model"]
