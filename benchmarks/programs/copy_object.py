"""One bare CopyObject: ``copy_object.py BUCKET KEY BUCKET KEY``; its seconds go to FLEXAI_BENCH_INNER."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import boto3
from botocore.config import Config

bucket, key, to_bucket, to_key = sys.argv[1:]
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}, read_timeout=600))
begun = time.perf_counter()
s3.copy_object(Bucket=to_bucket, Key=to_key, CopySource={"Bucket": bucket, "Key": key})
Path(os.environ["FLEXAI_BENCH_INNER"]).write_text(f"{time.perf_counter() - begun}")
