"""Settings of the benchmark's commands; those of others lie beside their functions."""

from activemri.settings.benchmark import BenchmarkSettings, DemoSettings
from activemri.settings.calibration import CalibrateSettings
from activemri.settings.curves import CurvesSettings

__all__ = ["BenchmarkSettings", "CalibrateSettings", "CurvesSettings", "DemoSettings"]
