"""The engine llamacpp: llama.cpp computes a GGUF file as it is, we draw and score. An extra of its own."""
