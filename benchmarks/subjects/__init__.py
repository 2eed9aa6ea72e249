"""Everything that can be asked: models trained here, Hugging Face models, endpoints, retrieval; one protocol."""
