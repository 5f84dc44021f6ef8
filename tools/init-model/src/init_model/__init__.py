"""The student that training starts from: a small Qwen3 with a tokenizer of its own."""
