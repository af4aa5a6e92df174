"""Builds fastprune with the CUDA kernels on the emulator, and a torch device to call them on.

``python -m host_gpu.build`` builds into FOLDER: the device, which is loaded before torch, and in
``site`` a package that stands in front of the one that is installed.
"""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

from torch.utils import cpp_extension

from cuda_on_host import build

HERE = Path(__file__).resolve().parent
CSRC = build.ROOT / "csrc"
FOLDER = build.ROOT / "build" / "host_gpu"
#: With block, tile and grid sizes as on a GPU.
KERNELS = build.Variant(policy=None, library="fastprune", device="CUDA")
#: What the host does is the same code for all instruction sets.
HOST_FLAGS = ("-fopenmp", "-fno-math-errno", "-DFASTPRUNE_WITH_CUDA", "-DFASTPRUNE_BASELINE")


def main() -> None:
    compiler = [*build.compiler_with_torch(KERNELS), f"-isystem{sysconfig.get_path('include')}"]
    headers = [CSRC, HERE.parent]
    host = [(source, headers) for source in sorted(CSRC.rglob("*.cpp"))]
    flags = [*compiler, *HOST_FLAGS, "-DTORCH_EXTENSION_NAME=_C"]
    (device,) = build.objects(compiler, [(HERE / "device.cpp", headers)])
    native = build.objects(flags, host)
    native += build.objects([*compiler, "-DFASTPRUNE_WITH_CUDA"], build.sources(KERNELS))

    paths = [f"-Wl,-rpath,{path}" for path in cpp_extension.library_paths()]
    site = FOLDER / "site" / "fastprune"
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(build.ROOT / "python" / "fastprune", site)
    shutil.copy(build.link([device], *paths, "-Wl,--no-as-needed"), FOLDER / "libdevice.so")
    made = build.link([*native, FOLDER / "libdevice.so"], *paths, "-fopenmp", "-ltorch_python")
    shutil.copy(made, site / "_C.so")


if __name__ == "__main__":
    main()
