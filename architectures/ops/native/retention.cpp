// What stands between the projections of RetNet and of Lightning Attention, in one pass over time each way.
//
//     q, k, v = turn(a(q)), scale turn(a(k)), a(v)      a: silu or nothing; turn: by position, or nothing
//     S_t = exp(g) S_{t-1} + k_t^T v_t,  o_t = q_t S_t  g: a constant of the head
//     y = b(gate) * gain * o / rms(o)                   b: silu or sigmoid; rms of a head or of all heads together
//
// The recurrence in chunks, and its backward from the right, are those of ../linear_attention.py. A chunk begins where
// a document does, so that documents packed into a row are as if each were alone. Everything of a chunk stays in the cache;
// of a text only the state before each chunk is kept for the backward, which makes the rest again.
//
// Shapes: B batch, T time, H heads, K width of a key, V width of a value, n tokens of a chunk.

#include <new>

#include "retention_inputs.h"
#include "retention_norm.h"
#include "teams.h"

namespace {

constexpr Int BLOCK = 16;  // tokens whose share of the gain's gradient is summed first

// Both ways over one row of a batch.
template <typename T> class Work {
  public:
    const Call& call;
    const Chunks chunks;
    const Int longest, key, value, width;  // longest: tokens of a chunk; padded, but for width: H V
    const Inputs<T> inputs;
    const Norm<T> norm;
    std::vector<Fading<T>> fading;

    Work(const Call& call, bool backward)
        : call(call), chunks(call), longest(padded(std::min(call.chunk, call.time))), key(padded(call.key)),
          value(padded(call.value)), width(call.heads * call.value), inputs(call),
          norm(call), fading(call.heads), shares(threads(call), call.batch, call.heads), heads(shares.teams), rooms(shares.threads()),
          parts(shares.teams) {
        for (Int h = 0; h < call.heads; ++h) fading[h].make(call.decay[h], longest);
        for (auto& team : heads)
            for (Int h = 0; h < call.heads; ++h) team.emplace_back(arena, longest, key, value, backward);
        for (auto& room : rooms) room = Room<T>(arena, call, longest, key, value, backward);
        if (backward && call.gain)
            for (auto& part : parts) part = arena.matrix(longest / BLOCK, width);
    }

    bool forward(const T* state, T* out, T* after) {
        return in_teams(shares, call.batch, [&](const Member& me, Int row) {
            auto& mine = heads[me.number / shares.size];
            const Int size = call.key * call.value;
            me.share(call.heads, [&](Int h) {
                if (whole()) mine[h].state = {after + (row * call.heads + h) * size, value};
                copy_in(state + (row * call.heads + h) * size, mine[h].state);
            });
            Int done = 0;
            for (const Chunk& chunk : chunks.of[row]) {
                inputs.turns(rooms[me.number], chunk, row);
                me.share(call.heads, [&](Int h) {
                    keep(mine[h].state, chunk, h);
                    read(mine[h], rooms[me.number], mine[h].state, chunk, row, h);
                    step(mine[h], rooms[me.number], chunk, h);
                });
                me.team->meet();
                me.share((chunk.size + BLOCK - 1) / BLOCK, [&](Int block) {
                    for (Int t = block * BLOCK; t < std::min(chunk.size, (block + 1) * BLOCK); ++t)
                        norm.finish(mine, t, gate(row, chunk.begin + t), token(out, row, chunk.begin + t, width));
                });
                if (me.rank == 0) zero(out, row, done, chunk.begin, width);
                done = chunk.begin + chunk.size;
                me.team->meet();
            }
            if (me.rank == 0) zero(out, row, done, call.time, width);
            if (!whole())
                me.share(call.heads, [&](Int h) { copy_out(mine[h].state, after + (row * call.heads + h) * size); });
        });
    }

    // `on_gain` (B, H V) in float64, of each row.
    bool backward(const T* above, Int above_row, Int above_token, const T* on_after, T* on_qkv, T* on_gate,
                  double* on_gain, T* on_state) {
        const Int numbers = call.heads * (2 * call.key + call.value);
        return in_teams(shares, call.batch, [&](const Member& me, Int row) {
            auto& mine = heads[me.number / shares.size];
            auto& room = rooms[me.number];
            const Int size = call.key * call.value;
            me.share(call.heads, [&](Int h) { copy_in(on_after + (row * call.heads + h) * size, mine[h].on_state); });
            Int done = call.time;
            const auto& all = chunks.of[row];
            for (auto chunk = all.rbegin(); chunk != all.rend(); ++chunk) {
                const Int end = chunk->begin + chunk->size;
                inputs.turns(room, *chunk, row);
                me.share(call.heads, [&](Int h) { read(mine[h], room, kept(*chunk, h), *chunk, row, h); });
                me.team->meet();
                Matrix<T> part = parts[me.number / shares.size];
                me.share((chunk->size + BLOCK - 1) / BLOCK, [&](Int block) {
                    T* sums = on_gain ? part.at + block * part.stride : nullptr;
                    if (sums) std::fill(sums, sums + width, T(0));
                    for (Int t = block * BLOCK; t < std::min(chunk->size, (block + 1) * BLOCK); ++t) {
                        const Int at = chunk->begin + t;
                        const T* from = above + row * above_row + at * above_token;
                        norm.unfinish(mine, room.line.at, t, gate(row, at), from, token(on_gate, row, at, width), sums);
                    }
                });
                me.team->meet();
                if (on_gain && me.rank == 0)
                    for (Int block = 0; block < (chunk->size + BLOCK - 1) / BLOCK; ++block)
                        for (Int n = 0; n < width; ++n) on_gain[row * width + n] += part.at[block * part.stride + n];
                me.share(call.heads, [&](Int h) {
                    unread(mine[h], room, kept(*chunk, h), *chunk, h);
                    inputs.put(room, *chunk, row, h, on_qkv);
                });
                if (me.rank == 0) zero(on_qkv, row, end, done, numbers), zero(on_gate, row, end, done, width);
                done = chunk->begin;
            }
            if (me.rank == 0) zero(on_qkv, row, 0, done, numbers), zero(on_gate, row, 0, done, width);
            me.share(call.heads, [&](Int h) { copy_out(mine[h].on_state, on_state + (row * call.heads + h) * size); });
        });
    }

  private:
    Shares shares;
    Arena<T> arena;
    std::vector<std::vector<Head<T>>> heads;  // of each team
    std::vector<Room<T>> rooms;               // of each thread
    std::vector<Matrix<T>> parts;             // of each team: the gain's gradient by blocks of a chunk

    // A thread is worth its beginning for some hundred thousand products each.
    static Int threads(const Call& call) {
        const Int work = call.batch * call.time * call.heads * call.key * call.value;
        return std::min(call.threads, 1 + (work >> 19));
    }

    const T* gate(Int row, Int t) const {
        return static_cast<const T*>(call.gate) + row * call.gate_row + t * call.gate_token;
    }
    T* token(T* x, Int row, Int t, Int numbers) const { return x + (row * call.time + t) * numbers; }
    void zero(T* x, Int row, Int begin, Int end, Int numbers) const {
        if (end > begin) std::memset(token(x, row, begin, numbers), 0, (end - begin) * numbers * sizeof(T));
    }

    // Whether a state stands in memory as tensors have it, so that it is changed where it will be.
    bool whole() const { return key == call.key && value == call.value; }
    void copy_in(const T* from, Matrix<T> to) const {
        for (Int i = 0; i < call.key; ++i) std::memcpy(to.part(i, 0).at, from + i * call.value, call.value * sizeof(T));
    }
    void copy_out(Matrix<T> from, T* to) const {
        for (Int i = 0; i < call.key; ++i) std::memcpy(to + i * call.value, from.part(i, 0).at, call.value * sizeof(T));
    }
    Matrix<T> kept(const Chunk& chunk, Int h) const {
        return {static_cast<T*>(call.states) + (chunk.number * call.heads + h) * key * value, value};
    }
    void keep(Matrix<T> state, const Chunk& chunk, Int h) const {
        if (call.states) std::memcpy(kept(chunk, h).at, state.at, key * value * sizeof(T));
    }

    // q, k, v of a chunk, the pairs and what is read: `out` = exp(c) q S + (q k^T * D) v.
    void read(Head<T>& head, Room<T>& room, Matrix<T> state, const Chunk& chunk, Int row, Int h) const {
        const Int n = chunk.size, rows = tiled(n);
        inputs.take(head, room, chunk, row, h);
        transpose(padded(n), key, head.k.at, key, room.keys.at, longest);
        pairs(rows, call.key, plain(head.q), room.keys, head.pairs, fading[h].pairs());
        if (chunk.fresh) {
            product(Depth::lower, rows, value, n, plain(head.pairs), head.v, head.out);
        } else {
            product(Depth::all, rows, value, call.key, plain(head.q), state, head.out);
            product(Depth::lower, rows, value, n, plain(head.pairs), head.v, head.out, {fading[h].into(), 1});
        }
    }

    // x (n, V), each row times its number.
    void scaled(Matrix<T> x, const T* numbers, Matrix<T> to, Int n) const {
        for (Int t = 0; t < n; ++t)
            for (Int j = 0; j < value; j += Lanes<T>::count)
                store(to.part(t, j).at, load(x.part(t, j).at) * numbers[t]);
    }

    // S <- exp(c_n) S + sum_j exp(c_n - c_j) k_j^T v_j
    void step(Head<T>& head, Room<T>& room, const Chunk& chunk, Int h) const {
        const Int n = chunk.size, rows = tiled(call.key);
        scaled(head.v, fading[h].out_of(n), room.later, n);
        if (chunk.fresh)
            product(Depth::all, rows, value, n, turned(head.k), room.later, head.state);
        else
            product(Depth::all, rows, value, n, turned(head.k), room.later, head.state, {fading[h].whole(n), 0});
    }

    // The gradients of q, k, v in `room` from that of `out`, which stands in its place; r <- that before the chunk.
    void unread(Head<T>& head, Room<T>& room, Matrix<T> state, const Chunk& chunk, Int h) const {
        const Int n = chunk.size, rows = tiled(n);
        const T one = 1, *out_of = fading[h].out_of(n);
        scaled(head.out, fading[h].into(), room.inwards, n);
        scaled(head.v, out_of, room.later, n);
        transpose(padded(n), value, head.v.at, value, room.values.at, longest);
        transpose(key, value, head.on_state.at, value, room.behind.at, key);
        pairs(rows, call.value, plain(head.out), room.values, room.on_pairs, fading[h].pairs());
        if (chunk.fresh) {
            product(Depth::lower, rows, key, n, plain(room.on_pairs), head.k, room.on_q);
        } else {
            transpose(key, value, state.at, value, room.before.at, key);
            product(Depth::all, rows, key, call.value, plain(room.inwards), room.before, room.on_q);
            product(Depth::lower, rows, key, n, plain(room.on_pairs), head.k, room.on_q, {&one, 0});
        }
        product(Depth::all, rows, key, call.value, plain(room.later), room.behind, room.on_k);
        product(Depth::upper, rows, key, n, turned(room.on_pairs), head.q, room.on_k, {&one, 0});
        product(Depth::all, rows, value, call.key, plain(head.k), head.on_state, room.on_v);
        product(Depth::upper, rows, value, n, turned(head.pairs), head.out, room.on_v, {out_of, 1});
        if (chunk.fresh)
            std::memset(head.on_state.at, 0, key * value * sizeof(T));
        else
            product(Depth::all, tiled(call.key), value, n, turned(head.q), room.inwards, head.on_state,
                    {fading[h].whole(n), 0});
    }
};

// 0: done; 1: no memory.
template <typename T, typename Do> int run(const Call* call, bool backward, Do work) {
    try {
        Call own = *call;
        for (bool done = false; !done; own.threads = 1) {  // alone where the system gives no threads
            Work<T> shared(own, backward);
            done = work(shared);
        }
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

extern "C" {
// How many chunks there are in all rows, of which the states are kept; and the numbers of one state.
int retention_kept(const Call* call, Int* chunks, Int* numbers) {
    try {
        *chunks = Chunks(*call).count;
        *numbers = call->heads * padded(call->key) * padded(call->value);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

int retention_forward(const Call* call, const NUMBER* state, NUMBER* out, NUMBER* after) {
    return run<NUMBER>(call, false, [&](Work<NUMBER>& work) { return work.forward(state, out, after); });
}

// `on_gain` (B, H V) begins as zeros; null: it is not made.
int retention_backward(const Call* call, const NUMBER* above, Int above_row, Int above_token, const NUMBER* on_after,
                       NUMBER* on_qkv, NUMBER* on_gate, double* on_gain, NUMBER* on_state) {
    return run<NUMBER>(call, true, [&](Work<NUMBER>& work) {
        return work.backward(above, above_row, above_token, on_after, on_qkv, on_gate, on_gain, on_state);
    });
}
}
