"""Settings of every command, one frozen dataclass each; the command line is made from them.

The line below a field is its help text. Nothing heavy is imported here: ``activemri --help``
reads these files and no more.
"""

from activemri.settings.inspection import (
    CardSettings,
    ConvertSettings,
    InspectSettings,
    SplitSettings,
)
from activemri.settings.policy import (
    DemonstrateSettings,
    EnvironmentSettings,
    TrainAlternatingSettings,
    TrainPolicySettings,
)
from activemri.settings.search import TuneSettings
from activemri.settings.study import StudySettings
from activemri.settings.training import (
    TrainJointSettings,
    TrainOrderSettings,
    TrainReconstructorSettings,
)

__all__ = [
    "CardSettings",
    "ConvertSettings",
    "DemonstrateSettings",
    "EnvironmentSettings",
    "InspectSettings",
    "SplitSettings",
    "StudySettings",
    "TrainAlternatingSettings",
    "TrainJointSettings",
    "TrainOrderSettings",
    "TrainPolicySettings",
    "TrainReconstructorSettings",
    "TuneSettings",
]
