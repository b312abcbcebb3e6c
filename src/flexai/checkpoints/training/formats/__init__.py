"""What a checkpoint folder is: whether it is whole, and what it says about itself.

Everything here reads headers and small JSON documents, by range, through a `Folder`; nothing is unpickled,
nothing outside the folder's own listing is opened, and no content, however hostile, raises: it becomes a
reason in the answer.

    folder = LocalFolder(output_dir / "checkpoint-500")
    completeness(folder)      # Completeness(outcome=WHOLE, rule="transformers", ...)
    read_facts(folder)        # Facts(step=500, train_loss=0.12, ...)

Both take a `Survey` as well, so that one reading of the headers serves the two.
"""

from flexai.checkpoints.training.formats.completeness import Completeness, completeness
from flexai.checkpoints.training.formats.facts import Facts, read_facts
from flexai.checkpoints.training.formats.folder import Folder, LocalFolder
from flexai.checkpoints.training.formats.survey import Survey
from flexai.checkpoints.training.formats.verdict import Outcome

__all__ = [
    "Completeness",
    "Facts",
    "Folder",
    "LocalFolder",
    "Outcome",
    "Survey",
    "completeness",
    "read_facts",
]
