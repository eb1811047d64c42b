"""Models from GGUF files, the format of llama.cpp, Ollama and LM Studio: converted once into a folder for MLX."""
