"""Parity of hashed attention with the Reformer of transformers: see theirs.py for its installation.

Run in float64 with the weights and the rotations of ours, without positions: theirs adds them to the embeddings. What
differs by convention is said where it is undone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import WIDTH, Parity
from theirs import installed
from torch import Tensor, nn

from farfield.architectures import Rows
from farfield.architectures.encoders.reformer import ReformerEncoder, ReformerEncoderConfig

HEADS = 4


def encoder(rounds: int, chunk: int) -> ReformerEncoder:
    torch.manual_seed(0)
    settings = ReformerEncoderConfig(heads=HEADS, buckets=6, rounds=rounds, chunk=chunk, across=True, position="none")
    built = settings.build(WIDTH, 0, 1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return built.double()


def theirs_of(ours: ReformerEncoder, reformer: Any) -> nn.Module:
    """Their layer, without the output projection, with our weights."""
    config = reformer.ReformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        attention_head_size=WIDTH // HEADS,
        attn_layers=["lsh"],
        lsh_attn_chunk_length=ours.chunk,
        lsh_num_chunks_before=1,
        lsh_num_chunks_after=0,
        lsh_attention_probs_dropout_prob=0.0,
        num_hashes=ours.rounds,
        num_buckets=ours.projection.rotations.shape[-1] * 2,
        is_decoder=False,
        axial_pos_embds=False,
    )
    theirs = reformer.LSHSelfAttention(config, 0).double().eval()
    query, value = ours.projection.qv.weight.chunk(2)
    theirs.load_state_dict({"query_key.weight": query, "value.weight": value})
    return theirs


def within_rounds(theirs: Any, rounds: int) -> None:
    """Theirs has all rounds in one row of chunks, so that the first chunk of a round looks at the last one of the round
    before; in ours it looks at the last one of its own."""
    look = theirs._look_adjacent

    def adjacent(vectors: Tensor, before: int, after: int) -> Tensor:
        return torch.cat([look(turn, before, after) for turn in vectors.chunk(rounds, 2)], 2)

    theirs._look_adjacent = adjacent


@pytest.mark.parity("encoder reformer", "transformers' LSHSelfAttention")
@pytest.mark.parametrize(("rounds", "chunk", "time"), [(1, 8, 64), (1, 8, 16), (1, 64, 40), (2, 8, 64), (3, 4, 20)])
def test_across_is_transformers(
    rounds: int, chunk: int, time: int, parity: Parity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and the gradient of the input; theirs takes lengths of whole chunks only, and draws its rotations itself,
    which are handed to it: one axis order is another."""
    reformer = installed("transformers.models.reformer.modeling_reformer")
    ours = encoder(rounds, chunk)
    theirs = theirs_of(ours, reformer)
    within_rounds(theirs, rounds)
    rotations = ours.projection.rotations.transpose(1, 2)
    x = torch.randn(2, time, WIDTH, dtype=torch.float64, requires_grad=True)
    found = ours.encode(x, Rows.fresh_documents(2, time))
    with monkeypatch.context() as patch:
        patch.setattr(reformer.torch, "randn", lambda shape, **_: rotations.reshape(shape))
        expected = ours.projection.out(theirs(x).hidden_states)
    parity.outputs(found, expected, 1e-9, x)


def test_a_bucket_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They number the buckets of later rounds on."""
    reformer = installed("transformers.models.reformer.modeling_reformer")
    ours = encoder(3, 8)
    theirs: Any = theirs_of(ours, reformer)
    x = torch.randn(2, HEADS, 50, WIDTH // HEADS, dtype=torch.float64)
    rotations = ours.projection.rotations.transpose(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(reformer.torch, "randn", lambda shape, **_: rotations.reshape(shape))
        expected = theirs._hash_vectors(x, 3, None).unflatten(2, (3, -1))
    assert torch.equal(ours.projection.buckets(x), expected - 6 * torch.arange(3)[:, None])
