"""What a checkpoint folder is: whether it is whole, and what it says about itself.

Everything here reads headers and small JSON documents, by range, through a `CheckpointFolder`; nothing is unpickled,
nothing outside the folder's own listing is opened, and no content, however hostile, raises: it becomes a
reason in the answer.

    folder = LocalFolder(output_dir / "checkpoint-500")
    completeness(folder)      # Completeness(outcome=WHOLE, rule="transformers", ...)
    read_facts(folder)        # Facts(step=500, train_loss=0.12, ...)

Both take a `Survey` as well, so that one reading of the headers serves the two.
"""
