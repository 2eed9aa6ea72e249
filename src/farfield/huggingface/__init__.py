"""Folders of Hugging Face, read into our own layers and written back: config.json, safetensors, tokenizer.json."""
