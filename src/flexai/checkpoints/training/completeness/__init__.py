"""When a captured checkpoint is complete: ``by_format`` judges its files, ``by_time`` follows what the trainer does."""
