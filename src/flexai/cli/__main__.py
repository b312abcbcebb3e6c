"""``python -m flexai.cli`` is ``flexai``."""

from flexai.cli import main

main()
