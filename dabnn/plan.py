"""An earlier place of `dabnn.Site` and `dabnn.plan_conversion`."""

from dabnn.conversion.plan import plan_conversion
from dabnn.conversion.report import ConversionReport, Site

__all__ = ["ConversionReport", "Site", "plan_conversion"]
