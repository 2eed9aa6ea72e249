"""How subjects are asked: cells, batches, shared beginnings, retries, processes, and the files of results."""
