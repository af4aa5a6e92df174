"""A program that hangs, and so does its child: what verify_gpu.py --rehearse hang has to end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(3600)"
    child = subprocess.Popen([sys.executable, "-c", code])
    (Path(sys.argv[1]) / "child.pid").write_text(str(child.pid))
    time.sleep(3600)


if __name__ == "__main__":
    main()
