"""Settings: flag > environment > `.env` > `syncctl.toml` > default, one typed model.

from syncctl.settings import load_settings
"""

from syncctl.settings.describe import Entry, describe_settings
from syncctl.settings.load import load_settings
from syncctl.settings.model import Settings

__all__ = ["Entry", "Settings", "describe_settings", "load_settings"]
