"""Settings of every command, one frozen dataclass each; the command line is made from them.

The line below a field is its help text. Nothing heavy is imported here: ``activemri --help``
reads these files and no more.
"""

from activemri.settings.benchmark import BenchmarkSettings, DemoSettings
from activemri.settings.calibration import CalibrateSettings
from activemri.settings.curves import CurvesSettings
from activemri.settings.inspection import (
    CardSettings,
    ConvertSettings,
    InspectSettings,
    SplitSettings,
    ThroughputSettings,
)
from activemri.settings.search import TuneSettings
from activemri.settings.study import StudySettings
from activemri.settings.training import (
    TrainJointSettings,
    TrainOrderSettings,
    TrainReconstructorSettings,
)

__all__ = [
    "BenchmarkSettings",
    "CalibrateSettings",
    "CardSettings",
    "ConvertSettings",
    "CurvesSettings",
    "DemoSettings",
    "InspectSettings",
    "SplitSettings",
    "StudySettings",
    "ThroughputSettings",
    "TrainJointSettings",
    "TrainOrderSettings",
    "TrainReconstructorSettings",
    "TuneSettings",
]
