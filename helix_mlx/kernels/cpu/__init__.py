"""The kernels for models on a CPU, compiled on first use."""
