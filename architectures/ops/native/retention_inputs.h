// What queries, keys and values go through before the recurrence, and their gradients behind it.
#pragma once

#include "retention_call.h"

template <typename T> class Inputs {
  public:
    explicit Inputs(const Call& call) : call(call) {}

    // Cosines and sines of a chunk, in float64: exact where a run of positions begins, from there turn by turn.
    void turns(Room<T>& room, const Chunk& chunk, Int row) const {
        if (!call.frequency) return;
        const Int half = call.key / 2;
        double *c = room.turn.data(), *s = c + half, *dc = s + half, *ds = dc + half;
        const Int* phase = call.phase + row * call.phase_row;
        for (Int i = 0; i < half && chunk.size > 1; ++i)
            dc[i] = std::cos(call.frequency[i]), ds[i] = std::sin(call.frequency[i]);
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

    // Queries, keys and values of a chunk, as the recurrence takes them.
    void take(Head<T>& head, Room<T>& room, const Chunk& chunk, Int row, Int h) const {
        for (Int t = 0; t < chunk.size; ++t) {
            const T* x = from(chunk, row, t);
            T *q = head.q.part(t, 0).at, *k = head.k.part(t, 0).at;
            activate(x + h * call.key, q, call.key);
            activate(x + (call.heads + h) * call.key, k, call.key);
            activate(x + 2 * call.heads * call.key + h * call.value, head.v.part(t, 0).at, call.value);
            turn(room, t, q, k, T(1));
        }
    }

    // Their gradients, to where those of all heads and tokens stand.
    void put(Room<T>& room, const Chunk& chunk, Int row, Int h, T* to) const {
        const Int q = h * call.key, k = q + call.heads * call.key, v = 2 * call.heads * call.key + h * call.value;
        for (Int t = 0; t < chunk.size; ++t) {
            const T* x = from(chunk, row, t);
            T* at = to + (row * call.time + chunk.begin + t) * call.heads * (2 * call.key + call.value);
            turn(room, t, room.on_q.part(t, 0).at, room.on_k.part(t, 0).at, T(-1));
            deactivate(room.on_q.part(t, 0).at, x + q, at + q, call.key);
            deactivate(room.on_k.part(t, 0).at, x + k, at + k, call.key);
            deactivate(room.on_v.part(t, 0).at, x + v, at + v, call.value);
        }
    }

  private:
    const Call& call;

    const T* from(const Chunk& chunk, Int row, Int t) const {
        return static_cast<const T*>(call.qkv) + row * call.qkv_row + (chunk.begin + t) * call.qkv_token;
    }

    // A query and a key (K,) turned in place, forwards (sign 1) or back (-1), the key times `scale`.
    void turn(Room<T>& room, Int t, T* q, T* k, T sign) const {
        if (call.frequency) {
            const T *cosine = room.cosine.part(t, 0).at, *sine = room.sine.part(t, 0).at;
            turn(q, cosine, sine, T(1), sign), turn(k, cosine, sine, T(call.scale), sign);
        } else if (call.scale != 1) {
            for (Int i = 0; i < call.key; ++i) k[i] *= T(call.scale);
        }
    }

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
};
