"""A GPU that is not there: torch's "cuda" as memory of the host, its kernels on the emulator.

So tests of CUDA tensors run where there is no GPU, as they would there: the operators are called
through the dispatcher, with tensors of another device than the CPU. ``make rehearse-gpu`` runs the
tests that ``scripts/verify_gpu.sh`` runs on a GPU. build.py builds fastprune for it, device.cpp is
the device, and plugin.py makes torch believe in it.
"""
