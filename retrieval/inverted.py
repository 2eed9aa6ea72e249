"""Search in some of the lists that k-means cuts the vectors into, the way to large collections.

    ivf   IVF{lists},SQfp16                    vectors as float16, in lists
    pq    IVF{lists},PQ{m}x4fs,Refine(SQfp16)  4-bit codes in lists find `factor` times as many as are asked for, whose
                                               vectors, float16 and in one row each, then put them into order

A row has a number that it keeps: lists hold these numbers, and our own map has the ids. A vector removed leaves its
list; with `pq` its row stays, empty, until the index is built anew. (FAISS's own map over lists returns wrong ids after
a removal, without an error: faiss#4656; its refining index takes no ids.) 4-bit codes are those of what a vector has
beyond its list's centre; inner products of both are added, so this costs nothing and finds more (docs/log.md).

What is not in the lists that are looked at is not found. `tuning.py` chooses how many are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from farfield.config import ConfigError, IndexingError
from farfield.retrieval.embedders import Matrix
from farfield.retrieval.faiss_library import chosen_rows, library, read_index, write_index
from farfield.retrieval.gpu import MOST, GpuCopy, require_gpu, train_on_gpu
from farfield.retrieval.row_ids import RowIds
from farfield.retrieval.vector_store import Found, Ids, checked_count, checked_rows, nothing, ordered, settled, widened

__all__ = ["BEST", "PER_LIST", "Inverted", "Shape", "sub_quantisers"]

ITERATIONS = 10
PER_LIST = 64
SEED = 1234
MOST_TIES = 4096
BEST = 10
HALF = 65504.0


@dataclass(frozen=True)
class Shape:
    """How an index is laid out: its kind, and into how many lists."""

    kind: Literal["ivf", "pq"]
    lists: int


def sub_quantisers(dimension: int) -> int:
    """Parts that a vector is cut into, of two numbers each; three or one where two do not divide it."""
    return dimension // next(part for part in (2, 3, 1) if dimension % part == 0)


class Inverted:
    """Vectors (count, dimension) in lists, each with an id of its own; float16.

    `probe` lists are looked at for a question, and with `pq` so many times the vectors as are asked for, `factor`.
    """

    def __init__(self, shape: Shape, sample: Matrix, gpu: bool = False) -> None:
        """An empty store, trained on `sample` (n, dimension), n at least 39 for each list; on a GPU where it may be."""
        faiss, dimension = library(), sample.shape[1]
        quantizer = faiss.IndexFlatIP(dimension)
        inner, half = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_fp16
        if shape.kind == "pq":
            parts = sub_quantisers(dimension)
            lists = faiss.IndexIVFPQFastScan(quantizer, dimension, shape.lists, parts, 4, inner)
            lists.by_residual = True
            lists.pq.cp.seed = SEED
        else:
            lists = faiss.IndexIVFScalarQuantizer(quantizer, dimension, shape.lists, half, inner, False)
        lists.cp.spherical, lists.cp.niter, lists.cp.seed = True, ITERATIONS, SEED
        if gpu:
            train_on_gpu(lists)
        lists.train(sample)
        rows = None
        if shape.kind == "pq":
            rows = faiss.IndexScalarQuantizer(dimension, half, inner)
            rows.train(sample[:1])
        self._lists, self._vectors, self._rows = lists, rows, RowIds()
        self._index: Any = lists if rows is None else faiss.IndexRefine(lists, rows)
        self._gpu: Any = None
        self.probe, self.factor = 1, 1

    @property
    def count(self) -> int:
        """How many vectors there are."""
        return self._rows.live

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._lists.d)

    @property
    def ids(self) -> Ids:
        """The ids (count,), in no order."""
        ids = self._rows.ids
        return ids[ids >= 0]

    @property
    def empty_rows(self) -> int:
        """Rows that take room and hold no vector."""
        return self._rows.ids.size - self.count if self._vectors is not None else 0

    @property
    def shape(self) -> Shape:
        """Its kind and number of lists."""
        return Shape("ivf" if self._vectors is None else "pq", int(self._lists.nlist))

    def add(self, ids: Ids, rows: Matrix) -> None:
        """See `VectorStore.add`."""
        rows = checked_rows(rows, self.dimension)
        largest = float(np.abs(rows).max(initial=0))
        if largest > HALF:
            raise IndexingError(f"a vector holds {largest:g}; kept as float16, numbers go up to {HALF:g}.")
        ids = self._rows.check_new(ids, len(rows))
        first = self._rows.ids.size
        self._lists.add_with_ids(rows, np.arange(first, first + len(rows)))
        if self._vectors is not None:
            self._vectors.add(rows)
            self._index.ntotal = self._vectors.ntotal
        self._rows.append(ids)
        self._gpu = None

    def use_gpu(self) -> None:
        """Searches go to a copy on the GPU from now on, until the store changes.

        Raises:
            ConfigError: there is no GPU, or the store's kind is none that a GPU searches.
        """
        require_gpu()
        if self._vectors is not None:
            raise ConfigError("device: cuda given, and an index of kind pq. Ingest with vectors.kind=ivf device=cuda.")
        self._gpu = self._gpu or GpuCopy(self._index)

    def remove(self, ids: Ids) -> int:
        """See `VectorStore.remove`."""
        rows = self._rows.rows(np.unique(np.asarray(ids, np.int64)))
        rows = rows[rows >= 0]
        if rows.size:
            self._lists.remove_ids(chosen_rows(rows, self._rows.ids.size))
            if self._vectors is not None:
                _clear_tails(self._lists)
            self._rows.kill(rows)
            self._gpu = None
        return rows.size

    def search(self, questions: Matrix, k: int, among: Ids | None = None) -> Found:
        """See `VectorStore.search`: of the vectors in the lists that are looked at.

        Where few may be found, so many more lists are looked at; where hardly any may, all are.
        """
        questions = checked_rows(questions, self.dimension)
        allowed = None if among is None else self._rows.rows(np.asarray(among, np.int64))
        allowed = allowed if allowed is None else allowed[allowed >= 0]
        there = self.count if allowed is None else allowed.size
        if not len(questions) or not there or not checked_count(k):
            return widened(nothing(len(questions)), k)
        probe, choice = self.probe, {}
        if allowed is not None:
            probe = min(self._lists.nlist, -(-probe * self.count // allowed.size))
            choice = {"sel": chosen_rows(allowed, self._rows.ids.size)}

        def fetch(questions: Matrix, asked: int) -> Found:
            here = self._gpu is None or choice or max(asked, probe) > MOST
            index = self._index if here else self._gpu
            scores, rows = index.search(questions, asked, params=self._parameters(probe, k, asked, choice))
            return ordered(scores, self._rows.of(rows))

        found = settled(fetch, questions, k, there, MOST_TIES)
        self._fill_blank(found, np.flatnonzero(~questions.any(axis=1)), allowed)
        return widened(found, k)

    def _fill_blank(self, found: Found, blank: Ids, allowed: Ids | None) -> None:
        """To a question of zeros all are equally near; FAISS finds no scale for its 4-bit tables, and nothing else."""
        if blank.size:
            ids = np.sort(self.ids if allowed is None else self._rows.ids[allowed])[: found.ids.shape[1]]
            found.scores[blank], found.ids[blank] = 0, ids

    def _parameters(self, probe: int, k: int, asked: int, choice: Mapping[str, Any]) -> Any:
        """Of a search for `k`, `asked` of which come back.

        The last of a long list need fewer codes each to be found: as many as the square root of k says.
        """
        faiss = library()
        lists = faiss.SearchParametersIVF(nprobe=probe, **choice)
        if self._vectors is None:
            return lists
        compared = min(self.factor * math.sqrt(k * min(k, BEST)), self.count)
        return faiss.IndexRefineSearchParameters(k_factor=max(1.0, (compared + 0.5) / asked), base_index_params=lists)

    def write(self, sink: Callable[[bytes], object]) -> None:
        """See `FileStore.write`."""
        self._lists.nprobe = self.probe
        if self._vectors is not None:
            self._index.k_factor = self.factor
        write_index(self._index, sink)
        self._rows.write(sink)

    @classmethod
    def read(cls, source: Callable[[int], bytes], size: int) -> Inverted:
        """The store that `write` wrote; `source` returns up to so many bytes of the `size` that there are.

        Raises:
            ValueError: these bytes are no such store.
        """
        faiss = library()
        index = read_index(source, size)
        lists, vectors = index, None
        if type(index) is faiss.IndexRefine:  # it owns both, and is kept as long as they are
            lists, vectors = faiss.downcast_index(index.base_index), faiss.downcast_index(index.refine_index)
        _check_parts(lists, vectors)
        if not index.is_trained or (index.d, index.metric_type) != (lists.d, lists.metric_type):
            raise ValueError("its parts do not fit each other")
        out = cls.__new__(cls)
        out._index, out._lists, out._vectors = index, lists, vectors
        out._rows = RowIds.read(source, None if vectors is None else vectors.ntotal)
        out._gpu = None
        out.probe, out.factor = int(lists.nprobe), 1 if vectors is None else int(index.k_factor)
        if not 1 <= out.probe <= lists.nlist or out.factor < 1:
            raise ValueError("its settings make no sense")
        if not np.array_equal(_listed(lists, out._rows.ids.size), out._rows.ids >= 0):
            raise ValueError("its lists do not hold the rows that have ids")
        if vectors is not None:
            index.ntotal = vectors.ntotal
        return out


def _clear_tails(lists: Any) -> None:
    """Empties the places behind the last code of each list, which come in blocks.

    FAISS leaves there what it has moved away in a removal, and adds the codes that come next to it bit by bit (1.15.1):
    vectors added after a removal would be found by codes that are not theirs.
    """
    faiss = library()
    inside = faiss.downcast_InvertedLists(lists.invlists)
    nothing_there = np.zeros(inside.packer.code_size, np.uint8)
    for one in range(lists.nlist):
        full, used = divmod(inside.list_size(one), inside.n_per_block)
        if used:
            bytes_there = faiss.rev_swig_ptr(inside.get_codes(one), (full + 1) * inside.block_size)
            block = bytes_there[full * inside.block_size :].reshape(1, -1)
            for place in range(used, inside.n_per_block):
                inside.packer.pack_1(nothing_there, place, block)


def _check_parts(lists: Any, vectors: Any) -> None:
    """Raises a ValueError unless these are what `Inverted` makes: FAISS reads more, and believes what it reads."""
    faiss = library()
    kind = faiss.IndexIVFScalarQuantizer if vectors is None else faiss.IndexIVFPQFastScan
    if type(lists) is not kind or lists.metric_type != faiss.METRIC_INNER_PRODUCT or not lists.is_trained:
        raise ValueError("not an inner-product index of lists that Farfield makes")
    quantizer = faiss.downcast_index(lists.quantizer)
    flat = type(quantizer) is faiss.IndexFlatIP and quantizer.is_trained
    flat = flat and (quantizer.ntotal, quantizer.d) == (lists.nlist, lists.d)
    codes = lists.sq if vectors is None else lists.pq
    if not flat or codes.d != lists.d or lists.invlists.nlist != lists.nlist:
        raise ValueError("the parts of its lists do not fit each other")
    if vectors is None:
        fits = codes.qtype == faiss.ScalarQuantizer.QT_fp16 and lists.code_size == 2 * lists.d
    else:
        fits = type(vectors) is faiss.IndexScalarQuantizer and vectors.d == lists.d and vectors.is_trained
        fits = fits and vectors.sq.qtype == faiss.ScalarQuantizer.QT_fp16 and vectors.sq.d == lists.d
        fits = fits and vectors.codes.size() == 2 * lists.d * vectors.ntotal
        fits = fits and (codes.M, codes.nbits) == (sub_quantisers(lists.d), 4)
    if not fits:
        raise ValueError("its codes are not those that Farfield makes")


def _listed(lists: Any, rows: int) -> npt.NDArray[np.bool_]:
    """Which of `rows` rows stand in a list (rows,).

    Raises:
        ValueError: a list holds another row, or one that another holds too.
    """
    faiss, inside = library(), lists.invlists
    sizes = [inside.list_size(one) for one in range(lists.nlist)]
    found = [faiss.rev_swig_ptr(inside.get_ids(one), size).copy() for one, size in enumerate(sizes) if size]
    numbers = np.concatenate([np.zeros(0, np.int64), *found])
    if numbers.size != lists.ntotal or (numbers.size and (numbers.min() < 0 or numbers.max() >= rows)):
        raise ValueError("its lists hold rows that are not there")
    counts = np.bincount(numbers, minlength=rows)
    if counts.max(initial=0) > 1:
        raise ValueError("a row is in two lists")
    return counts > 0
