// One call of retention: what it is given, its chunks, and the memory of threads and heads.
#pragma once

#include <cmath>
#include <vector>

#include "products.h"

extern "C" {
// As `_Struct` in ../retention.py.
struct Call {
    Int batch, time, heads, key, value, chunk, threads;
    Int activated;            // a: 1 silu, 0 nothing
    Int layout;               // turn: 0 halves, 1 interleaved
    Int sigmoid;              // b: 1 sigmoid, 0 silu
    Int together;             // rms: 1 of all heads together, 0 of each
    double scale, epsilon;
    const double* decay;      // g (H,)
    const double* frequency;  // (K / 2,), radians a token; null: nothing is turned
    const Int *positions, *phase;  // (B, T): 0 begins a document, -1 is padding
    Int positions_row, positions_token, phase_row, phase_token;
    const void* gain;         // (H V,) or null
    const void* qkv;          // (B, T, H (2 K + V)), its numbers side by side
    Int qkv_row, qkv_token;
    const void* gate;         // (B, T, H V)
    Int gate_row, gate_token;
    void* states;             // (chunks, H, padded K, padded V): the state before each chunk; null: not kept
};
}

struct Chunk {
    Int begin, size;
    bool fresh;  // begins a document: what was before is not looked at
    Int number;  // among those of all rows
};

class Chunks {
  public:
    std::vector<std::vector<Chunk>> of;
    Int count = 0;

    explicit Chunks(const Call& call) : of(call.batch) {
        for (Int row = 0; row < call.batch; ++row) {
            const Int* at = call.positions + row * call.positions_row;
            auto position = [&](Int t) { return at[t * call.positions_token]; };
            for (Int t = 0; t < call.time;) {
                if (position(t) < 0) {
                    ++t;
                    continue;
                }
                const Int begin = t++;
                while (t < call.time && t - begin < call.chunk && position(t) > 0) ++t;
                of[row].push_back({begin, t - begin, position(begin) == 0, count++});
            }
        }
    }
};

// What is left of a head's tokens and states after so many others.
template <typename T> struct Fading {
    std::vector<T> numbers, into_;
    Int most;
    void make(double decay, Int longest) {
        most = longest;
        numbers.assign(most + 1 + 2 * SPAN * PAD, T(0));
        into_.resize(most + 1);
        for (Int d = 0; d <= most; ++d) {
            const T left = T(std::exp(decay * double(d)));
            numbers[most - d] = left;
            if (d) into_[d - 1] = left;
        }
    }
    const T* pairs() const { return numbers.data() + most; }           // [j - i], zero for j > i
    const T* out_of(Int size) const { return pairs() - (size - 1); }   // [j]: of token j behind the chunk
    const T* into() const { return into_.data(); }                     // [i]: of the state before it at token i
    const T* whole(Int size) const { return pairs() - size; }          // [0]: of the state behind the chunk
};

// Memory of a thread or a head, handed out in matrices.
template <typename T> class Arena {
  public:
    // Zeros, at the border of a cache line.
    Matrix<T> matrix(Int rows, Int columns) {
        constexpr std::size_t line = 64;
        numbers.emplace_back(rows * columns + line / sizeof(T));
        const auto at = reinterpret_cast<std::uintptr_t>(numbers.back().data());
        return {reinterpret_cast<T*>((at + line - 1) / line * line), columns};
    }

  private:
    std::vector<std::vector<T>> numbers;
};

// What a head keeps from one phase of a chunk to the next.
template <typename T> struct Head {
    Matrix<T> q, k, v, pairs, out, state, on_state;
    Head() = default;
    Head(Arena<T>& arena, Int n, Int key, Int value, bool backward) {
        q = arena.matrix(n, key), k = arena.matrix(n, key), v = arena.matrix(n, value);
        pairs = arena.matrix(n, n), out = arena.matrix(n, value);
        if (!backward) state = arena.matrix(key, value);
        if (backward) on_state = arena.matrix(key, value);
    }
};

// What a thread needs for a head at a time.
template <typename T> struct Room {
    Matrix<T> keys, later, cosine, sine;  // k^T, values as they are behind the chunk
    Matrix<T> inwards, values, before, behind, on_pairs, on_q, on_k, on_v;
    Matrix<T> line;  // numbers of one token
    std::vector<double> turn;
    Room() = default;
    Room(Arena<T>& arena, const Call& call, Int n, Int key, Int value, bool backward) {
        keys = arena.matrix(key, n), later = arena.matrix(n, value);
        if (call.frequency) {
            cosine = arena.matrix(n, call.key / 2), sine = arena.matrix(n, call.key / 2);
            turn.resize(2 * call.key);
        }
        if (!backward) return;
        inwards = arena.matrix(n, value), values = arena.matrix(value, n);
        before = arena.matrix(value, key), behind = arena.matrix(value, key), on_pairs = arena.matrix(n, n);
        line = arena.matrix(1, call.heads * value);
        on_q = arena.matrix(n, key), on_k = arena.matrix(n, key), on_v = arena.matrix(n, value);
    }
};
