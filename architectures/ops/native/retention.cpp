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

#include <cmath>
#include <new>

#include "products.h"
#include "teams.h"

extern "C" {
// As `_Call` in ../retention.py.
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

namespace {

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
        state = arena.matrix(key, value);
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

constexpr Int BLOCK = 16;  // tokens whose share of the gain's gradient is summed first

// Both ways over one row of a batch.
template <typename T> class Work {
  public:
    const Call& call;
    const Chunks chunks;
    const Int longest, key, value, width;  // longest: tokens of a chunk; padded, but for width: H V
    std::vector<Fading<T>> fading;

    Work(const Call& call, bool backward)
        : call(call), chunks(call), longest(padded(std::min(call.chunk, call.time))), key(padded(call.key)),
          value(padded(call.value)), width(call.heads * call.value), fading(call.heads),
          shares(call.threads, call.batch, call.heads), heads(shares.teams), rooms(shares.threads()),
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
            me.share(call.heads, [&](Int h) { copy_in(state + (row * call.heads + h) * size, mine[h].state); });
            Int done = 0;
            for (const Chunk& chunk : chunks.of[row]) {
                turns(rooms[me.number], chunk, row);
                me.share(call.heads, [&](Int h) {
                    keep(mine[h].state, chunk, h);
                    read(mine[h], rooms[me.number], mine[h].state, chunk, row, h);
                    step(mine[h], rooms[me.number], chunk, h);
                });
                me.team->meet();
                me.share((chunk.size + BLOCK - 1) / BLOCK, [&](Int block) {
                    for (Int t = block * BLOCK; t < std::min(chunk.size, (block + 1) * BLOCK); ++t)
                        finish(mine, t, gate(row, chunk.begin + t), token(out, row, chunk.begin + t, width));
                });
                if (me.rank == 0) zero(out, row, done, chunk.begin, width);
                done = chunk.begin + chunk.size;
                me.team->meet();
            }
            if (me.rank == 0) zero(out, row, done, call.time, width);
            me.share(call.heads, [&](Int h) { copy_out(mine[h].state, after + (row * call.heads + h) * size); });
        });
    }

    // `on_gain` (B, H V) in float64, of each row.
    bool backward(const T* above, Int above_row, Int above_token, const T* on_after, T* on_qkv, T* on_gate,
                  double* on_gain, T* on_state) {
        const Int inputs = call.heads * (2 * call.key + call.value);
        return in_teams(shares, call.batch, [&](const Member& me, Int row) {
            auto& mine = heads[me.number / shares.size];
            auto& room = rooms[me.number];
            const Int size = call.key * call.value;
            me.share(call.heads, [&](Int h) { copy_in(on_after + (row * call.heads + h) * size, mine[h].on_state); });
            Int done = call.time;
            const auto& all = chunks.of[row];
            for (auto chunk = all.rbegin(); chunk != all.rend(); ++chunk) {
                const Int end = chunk->begin + chunk->size;
                turns(room, *chunk, row);
                me.share(call.heads, [&](Int h) { read(mine[h], room, kept(*chunk, h), *chunk, row, h); });
                me.team->meet();
                Matrix<T> part = parts[me.number / shares.size];
                me.share((chunk->size + BLOCK - 1) / BLOCK, [&](Int block) {
                    T* sums = on_gain ? part.at + block * part.stride : nullptr;
                    if (sums) std::fill(sums, sums + width, T(0));
                    for (Int t = block * BLOCK; t < std::min(chunk->size, (block + 1) * BLOCK); ++t) {
                        const Int at = chunk->begin + t;
                        const T* from = above + row * above_row + at * above_token;
                        unfinish(mine, room.line.at, t, gate(row, at), from, token(on_gate, row, at, width), sums);
                    }
                });
                me.team->meet();
                if (on_gain && me.rank == 0)
                    for (Int block = 0; block < (chunk->size + BLOCK - 1) / BLOCK; ++block)
                        for (Int n = 0; n < width; ++n) on_gain[row * width + n] += part.at[block * part.stride + n];
                me.share(call.heads, [&](Int h) {
                    unread(mine[h], room, kept(*chunk, h), *chunk, h);
                    put(room, *chunk, row, h, on_qkv);
                });
                if (me.rank == 0) zero(on_qkv, row, end, done, inputs), zero(on_gate, row, end, done, width);
                done = chunk->begin;
            }
            if (me.rank == 0) zero(on_qkv, row, 0, done, inputs), zero(on_gate, row, 0, done, width);
            me.share(call.heads, [&](Int h) { copy_out(mine[h].on_state, on_state + (row * call.heads + h) * size); });
        });
    }

  private:
    Shares shares;
    Arena<T> arena;
    std::vector<std::vector<Head<T>>> heads;  // of each team
    std::vector<Room<T>> rooms;               // of each thread
    std::vector<Matrix<T>> parts;             // of each team: the gain's gradient by blocks of a chunk

    const T* inputs(Int row, Int t) const {
        return static_cast<const T*>(call.qkv) + row * call.qkv_row + t * call.qkv_token;
    }
    const T* gate(Int row, Int t) const {
        return static_cast<const T*>(call.gate) + row * call.gate_row + t * call.gate_token;
    }
    T* token(T* x, Int row, Int t, Int numbers) const { return x + (row * call.time + t) * numbers; }
    void zero(T* x, Int row, Int begin, Int end, Int numbers) const {
        if (end > begin) std::memset(token(x, row, begin, numbers), 0, (end - begin) * numbers * sizeof(T));
    }

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

    // Cosines and sines of a chunk, in float64: exact where a run of positions begins, from there turn by turn.
    void turns(Room<T>& room, const Chunk& chunk, Int row) const {
        if (!call.frequency) return;
        const Int half = call.key / 2;
        double *c = room.turn.data(), *s = c + half, *dc = s + half, *ds = dc + half;
        const Int* phase = call.phase + row * call.phase_row;
        for (Int i = 0; i < half; ++i) dc[i] = std::cos(call.frequency[i]), ds[i] = std::sin(call.frequency[i]);
        for (Int t = 0; t < chunk.size; ++t) {
            const Int at = phase[(chunk.begin + t) * call.phase_token];
            const bool next = t && at == phase[(chunk.begin + t - 1) * call.phase_token] + 1;
            T *cosine = room.cosine.part(t, 0).at, *sine = room.sine.part(t, 0).at;
            for (Int i = 0; i < half; ++i) {
                if (next) {
                    const double turned = c[i] * dc[i] - s[i] * ds[i];
                    s[i] = s[i] * dc[i] + c[i] * ds[i], c[i] = turned;
                } else {
                    c[i] = std::cos(double(at) * call.frequency[i]), s[i] = std::sin(double(at) * call.frequency[i]);
                }
            }
            for (Int i = 0; i < half; ++i) cosine[i] = T(c[i]), sine[i] = T(s[i]);
        }
    }

    // x (K,) turned in place, forwards or (sign -1) back, times a number.
    void turn(T* x, const T* cosine, const T* sine, T scale, T sign) const {
        const Int half = call.key / 2;
        if (call.layout) {
            for (Int i = 0; i < half; ++i) {
                const T a = x[2 * i], b = x[2 * i + 1], c = scale * cosine[i], s = scale * sign * sine[i];
                x[2 * i] = a * c - b * s, x[2 * i + 1] = b * c + a * s;
            }
        } else {
            for (Int i = 0; i < half; ++i) {
                const T a = x[i], b = x[i + half], c = scale * cosine[i], s = scale * sign * sine[i];
                x[i] = a * c - b * s, x[i + half] = b * c + a * s;
            }
        }
    }

    void activate(const T* from, T* to, Int n) const {
        if (!call.activated) {
            std::memcpy(to, from, n * sizeof(T));
            return;
        }
        for (Int j = 0; j < n; j += Lanes<T>::count) {
            const Vector<T> x = load(from + j, n - j);
            store(to + j, x * sigmoid<T>(x));  // `to` is padded
        }
    }

    // on_x = on_y a'(x), of y = a(x).
    void deactivate(const T* above, const T* from, T* to, Int n) const {
        if (!call.activated) {
            std::memcpy(to, above, n * sizeof(T));
            return;
        }
        for (Int j = 0; j < n; j += Lanes<T>::count) {
            const Vector<T> x = load(from + j, n - j), s = sigmoid<T>(x);
            store(to + j, load(above + j) * s * (T(1) + x * (T(1) - s)), n - j);
        }
    }

    // q, k, v of a chunk, the pairs and what is read: `out` = exp(c) q S + (q k^T * D) v.
    void read(Head<T>& head, Room<T>& room, Matrix<T> state, const Chunk& chunk, Int row, Int h) const {
        const Int n = chunk.size, rows = tiled(n);
        const T scale = T(call.scale);
        for (Int t = 0; t < n; ++t) {
            const T* x = inputs(row, chunk.begin + t);
            T *q = head.q.part(t, 0).at, *k = head.k.part(t, 0).at;
            activate(x + h * call.key, q, call.key);
            activate(x + (call.heads + h) * call.key, k, call.key);
            activate(x + 2 * call.heads * call.key + h * call.value, head.v.part(t, 0).at, call.value);
            if (call.frequency) {
                const T *cosine = room.cosine.part(t, 0).at, *sine = room.sine.part(t, 0).at;
                turn(q, cosine, sine, T(1), T(1)), turn(k, cosine, sine, scale, T(1));
            } else if (scale != T(1)) {
                for (Int i = 0; i < call.key; ++i) k[i] *= scale;
            }
        }
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

    // The gradients of a chunk to where those of all heads and tokens stand.
    void put(Room<T>& room, const Chunk& chunk, Int row, Int h, T* on_qkv) const {
        const Int numbers = call.heads * (2 * call.key + call.value);
        const T scale = T(call.scale);
        for (Int t = 0; t < chunk.size; ++t) {
            const T* x = inputs(row, chunk.begin + t);
            T* to = token(on_qkv, row, chunk.begin + t, numbers);
            T *q = room.on_q.part(t, 0).at, *k = room.on_k.part(t, 0).at;
            if (call.frequency) {
                const T *cosine = room.cosine.part(t, 0).at, *sine = room.sine.part(t, 0).at;
                turn(q, cosine, sine, T(1), T(-1)), turn(k, cosine, sine, scale, T(-1));
            } else if (scale != T(1)) {
                for (Int i = 0; i < call.key; ++i) k[i] *= scale;
            }
            const Int at[3] = {h * call.key, (call.heads + h) * call.key, 2 * call.heads * call.key + h * call.value};
            deactivate(q, x + at[0], to + at[0], call.key);
            deactivate(k, x + at[1], to + at[1], call.key);
            deactivate(room.on_v.part(t, 0).at, x + at[2], to + at[2], call.value);
        }
    }

    // 1 / rms of token t of heads begin to end.
    T rate(const std::vector<Head<T>>& all, Int t, Int begin, Int end) const {
        T total = 0;
        for (Int h = begin; h < end; ++h) {
            const T* o = all[h].out.part(t, 0).at;
            Vector<T> squares = {};
            for (Int j = 0; j < call.value; j += Lanes<T>::count) {
                const Vector<T> x = load(o + j, call.value - j);
                squares += x * x;
            }
            total += sum<T>(squares);
        }
        return T(1) / std::sqrt(total / T((end - begin) * call.value) + T(call.epsilon));
    }

    Vector<T> gain(Int at, Int n) const {
        return call.gain ? load(static_cast<const T*>(call.gain) + at, n) : Vector<T>{} + T(1);
    }

    // y of token t.
    void finish(const std::vector<Head<T>>& all, Int t, const T* gate, T* to) const {
        const Int step = call.together ? call.heads : 1;
        for (Int begin = 0; begin < call.heads; begin += step) {
            const T r = rate(all, t, begin, begin + step);
            for (Int h = begin; h < begin + step; ++h) {
                const T* o = all[h].out.part(t, 0).at;
                for (Int j = 0; j < call.value; j += Lanes<T>::count) {
                    const Int n = call.value - j, at = h * call.value + j;
                    const Vector<T> g = load(gate + at, n), s = sigmoid<T>(g);
                    const Vector<T> normed = load(o + j) * r * gain(at, n);
                    store(to + at, (call.sigmoid ? s : g * s) * normed, n);
                }
            }
        }
    }

    // The gradient of o in its place, of the gate, and of the gain, which is added to.
    void unfinish(std::vector<Head<T>>& all, T* line, Int t, const T* gate, const T* above, T* on_gate, T* on_gain) const {
        const Int step = call.together ? call.heads : 1;
        for (Int begin = 0; begin < call.heads; begin += step) {
            const T r = rate(all, t, begin, begin + step);
            T inner = 0;
            for (Int h = begin; h < begin + step; ++h)
                inner += ungate(all[h].out.part(t, 0).at, line + h * value, h, r, gate, above, on_gate, on_gain);
            const T shrink = -inner * r * r * r / T(step * call.value);
            for (Int h = begin; h < begin + step; ++h) {
                T* o = all[h].out.part(t, 0).at;
                for (Int j = 0; j < value; j += Lanes<T>::count)
                    store(o + j, load(line + h * value + j) * r + load(o + j) * shrink);
            }
        }
    }

    // One head of a token: `line` = the gradient of o / rms, <o, line>, and the gradients of gate and gain.
    T ungate(const T* o, T* line, Int h, T r, const T* gate, const T* above, T* on_gate, T* on_gain) const {
        Vector<T> inner = {};
        for (Int j = 0; j < call.value; j += Lanes<T>::count) {
            const Int n = call.value - j, at = h * call.value + j;
            const Vector<T> x = load(o + j, n), weight = gain(at, n), dy = load(above + at, n);
            const Vector<T> g = load(gate + at, n), s = sigmoid<T>(g), slope = s * (T(1) - s);
            const Vector<T> normed = x * r, on_weighted = dy * (call.sigmoid ? s : g * s);
            store(on_gate + at, dy * (normed * weight) * (call.sigmoid ? slope : s + g * slope), n);
            if (on_gain) store(on_gain + at, load(on_gain + at, n) + on_weighted * normed, n);
            store(line + j, on_weighted * weight);
            inner += x * on_weighted * weight;
        }
        return sum<T>(inner);
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
