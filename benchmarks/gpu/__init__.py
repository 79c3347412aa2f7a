"""Times lstmc on a GPU beside PyTorch with cuDNN; benchmarks/gpu.sh is the command that runs it."""
