"""Reading what trainers write, and what a checkpoint says about itself.

Everything here reads headers and small JSON documents, by range, through a `CheckpointFolder`; nothing is unpickled,
nothing outside the folder's own listing is opened, and no content, however hostile, raises: it becomes a reason in the
answer. Whether a folder is whole is decided in `training.completeness`.
"""
