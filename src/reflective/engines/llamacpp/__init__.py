"""The engine llamacpp: llama.cpp runs a GGUF file, and tokens are drawn and steps scored here. An extra."""
