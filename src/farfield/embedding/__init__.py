"""Embedders and re-rankers that are models, for indexes, which know of none.

farfield.retrieval.open_index("handbook", builder=Models())        # as farfield.open_index does

sentences.py       models of the library sentence-transformers: vectors, token states, cross-encoders
hidden.py          hidden states of models that were trained here
"""

from farfield.embedding.models import Models

__all__ = ["Models"]
