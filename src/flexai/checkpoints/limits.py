"""Numbers that several rooms share."""

DEFAULT_PART_SIZE = 64 * 1024 * 1024
"""Bytes of a part of a large file: what is digested, moved, verified and tried again as one."""

MAX_PARTS = 10_000
"""S3's limit for one upload: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html."""
