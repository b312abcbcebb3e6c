"""Push, list and fetch from a script: no server, no Prefect, no network.

python examples/python_api.py FILE-OR-FOLDER
"""

import sys

import flexai

flexai.push("from-python", files=sys.argv[1], if_not_exists=True)
for checkpoint in flexai.list_checkpoints():
    print(f"{checkpoint.name}: {checkpoint.file_count} files, {checkpoint.size} bytes, {checkpoint.status}")
print(f"fetched to {flexai.fetch('from-python', 'restored').destination}")
