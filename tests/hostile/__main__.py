"""Try every hostile input, and print the peak of memory and the seconds that each took.

    make hostile ARGS="manifest gcs"

The peak is that of a process that does nothing else. It ends with 1 where an input took more than 300 MiB or 30 s, or
ended in an exception that is none of ours.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError

MOST_MIB = 300
MOST_SECONDS = 30
_ENOUGH = 6 * 1024**3
"""Bytes that a process may have at most, so that a reader without bounds ends and the machine does not."""

Attack = Callable[[], object]


def pickles() -> Iterator[tuple[str, Callable[[], Attack]]]:
    """Files that would take hours of a reader that follows their pickles."""
    from flexai.checkpoints.training.formats.executable import find_code
    from tests.hostile.pickle_floods import FLOODS
    from tests.support.folders import local_folder

    def prepare(make: Callable[[], bytes]) -> Attack:
        folder = Path(tempfile.mkdtemp(prefix="flexai-hostile-"))
        (folder / "model.pkl").write_bytes(make())
        return lambda: find_code(local_folder(folder))

    for name, make in FLOODS.items():
        yield f"model.pkl: {name}", lambda make=make: prepare(make)  # type: ignore[misc]


def documents() -> Iterator[tuple[str, Callable[[], Attack]]]:
    """Manifests, headers and configurations."""
    from tests.hostile.doors import attacks

    yield from attacks()


def services() -> Iterator[tuple[str, Callable[[], Attack]]]:
    """Servers that would have their clients' memory and time."""
    from tests.hostile.services import BODIES, CONTENTS, KINDS, LISTINGS, attack

    def prepare(kind: str, name: str) -> Attack:
        attack(kind, "nothing")  # imports the SDK, which is no attack
        return lambda: attack(kind, name)

    for kind in KINDS:
        for name in (*BODIES, *LISTINGS, *CONTENTS):
            yield f"{kind}: {name}", lambda kind=kind, name=name: prepare(kind, name)  # type: ignore[misc]


GROUPS = {"pickles": pickles, "documents": documents, "services": services}


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError


def _peak() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


def try_one(group: str, name: str, seconds: str) -> None:
    """Have this process try an input for so many seconds at most, and print what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (_ENOUGH, _ENOUGH))
    attack = dict(GROUPS[group]())[name]()
    # Forget the peak of making the input: man 5 proc_pid_clear_refs.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(int(seconds))
    began = time.monotonic()
    try:
        said = getattr(attack(), "error", "")
    except (CheckpointError, CannotTellError, NotWholeError, ValueError) as error:
        said = type(error).__name__
    except (MemoryError, TimeoutError) as error:
        said = f"failed: {type(error).__name__}"
    print(json.dumps({"peak": _peak(), "seconds": time.monotonic() - began, "said": said}), flush=True)


def measure(group: str, name: str, *, most_seconds: int = MOST_SECONDS) -> tuple[int, float, str, bool]:
    """Try an input in a process of its own: its peak in MiB, its seconds, what was said, and whether all is well."""
    with tempfile.TemporaryDirectory(prefix="flexai-hostile-") as folder:
        command = [sys.executable, "-W", "ignore", "-m", "tests.hostile", "--one", group, name, str(most_seconds)]
        # What it leaves behind lies in there.
        environment = os.environ | {"TMPDIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    try:
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        told = {"peak": 0, "seconds": 0.0, "said": f"failed: {(done.stderr.splitlines() or ['killed'])[-1]}"}
    is_well = told["peak"] <= MOST_MIB and told["seconds"] <= most_seconds and not told["said"].startswith("failed")
    return told["peak"], told["seconds"], told["said"], is_well


def main(*words: str) -> int:
    """Print the table; `words` are parts of the names of those to try, all without any."""
    print(f"{'input':60} {'peak MiB':>9} {'seconds':>8}  said", flush=True)
    bad = 0
    for group, names in GROUPS.items():
        for name, _ in names():
            if not words or any(word in f"{group} {name}" for word in words):
                peak, seconds, said, is_well = measure(group, name)
                bad += not is_well
                print(
                    f"{name[:60]:60} {peak:>9} {seconds:>8.1f}  {said}{'' if is_well else '  <-- too much'}", flush=True
                )
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        try_one(*sys.argv[2:])
        sys.exit(0)
    sys.exit(main(*sys.argv[1:]))
