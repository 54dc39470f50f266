"""Ways to run a Hugging Face model over our KV memory: its own forward, fused operators, compiled code."""
