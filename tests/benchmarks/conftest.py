from __future__ import annotations

from tests.support.fixtures import fast_path, home_template, machine, new_machine, no_settings_of_this_machine

__all__ = ["fast_path", "home_template", "machine", "new_machine", "no_settings_of_this_machine"]
