"""HELMET: seven kinds of tasks, each in several sizes. What is too long loses its end.

https://github.com/princeton-nlp/HELMET. The files of recall, RAG, re-ranking and citing are its own, in the folder
`data` that it has for download; those of in-context learning, books and summaries are of other data sets, and `icl`
and `long_texts` say which. A number in a name is the size: pairs, passages, examples or tokens. HELMET counts tokens of
Llama 2 where it cuts, and here the model's own count. Examples are drawn by the question, as there, but not the same.
"""

from farfield.benchmarks.tasks.longdoc.data_set import Benchmark
from farfield.benchmarks.tasks.longdoc.helmet.citing import CITING
from farfield.benchmarks.tasks.longdoc.helmet.icl import ICL
from farfield.benchmarks.tasks.longdoc.helmet.long_texts import LONG_TEXTS
from farfield.benchmarks.tasks.longdoc.helmet.rag import RAG
from farfield.benchmarks.tasks.longdoc.helmet.recall import RECALL
from farfield.benchmarks.tasks.longdoc.helmet.reranking import RERANKING

__all__ = ["HELMET"]

HELMET = Benchmark("helmet", (*RECALL, *RAG, *RERANKING, *CITING, *LONG_TEXTS, *ICL))
