// What a decoded token costs most, each for a few rows: a product with a matrix, and attention of one query a head.
//
// Both read what is large, weights or keys and values, once from memory and in its order. A row is summed in the same
// order however many rows there are.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "numbers.h"
#include "teams.h"

namespace {

constexpr Int REGISTERS = FARFIELD_BYTES == 64 ? 32 : 16;
constexpr Int AHEAD = 2048;  // bytes of a stream that are asked for before they are needed
constexpr Int MOST = 8;      // rows of one pass over the matrix
constexpr Int SHORTEST = 48, LONGEST = 192;  // rows of the matrix at a time: long streams, some for each thread
constexpr Int NUMBERS = 1 << 18;  // read by a thread that is worth its beginning

INLINE void ask_ahead(const void* from) { __builtin_prefetch(static_cast<const char*>(from) + AHEAD, 0, 2); }

// `work` for a count from 1 to MOST as a constant.
template <Int most = MOST, typename Work> INLINE void of_rows(Int count, Work work) {
    if (count >= most) work(std::integral_constant<Int, most>());
    else if constexpr (most > 1) of_rows<most - 1>(count, work);
}

// `work` for each of `count` things, by threads that live as long as the call where there is enough to do.
template <typename Work> void shared(Int count, Int numbers, Int threads, Work work) {
    const Int own = std::min(threads, numbers / NUMBERS);
    if (own > 1 && in_teams(Shares(own, count, 1), count, [&](const Member&, Int n) { work(n); })) return;
    for (Int n = 0; n < count; ++n) work(n);
}

// `x` (rows, inputs) as `tile` reads it: of MOST rows at a time, in turn, a vector of each part; zeros behind.
template <typename T, typename A = Sum<T>> Aligned<A> packed(const T* x, Int rows, Int inputs) {
    constexpr Int lanes = Lanes<A>::count, step = Numbers<T>::count;
    Aligned<A> found(rows * upward<T>(inputs));
    for (Int r = 0; r < rows; ++r) {
        const Int first = r / MOST * MOST, together = std::min(MOST, rows - first);
        A* to = found.data() + first * upward<T>(inputs) + (r - first) * lanes;
        for (Int i = 0; i < inputs; i += step) {
            T rest[step] = {};
            const T* from = x + r * inputs + i;
            if (i + step > inputs) from = std::copy(from, from + inputs - i, rest) - (inputs - i);
            of_parts<T>([&](auto part) {
                store(to + i * together + part * together * lanes, Numbers<T>::template of<part>(from));
            });
        }
    }
    return found;
}

// Rows of the matrix at a time for so many rows of x: as many as there are registers for.
constexpr Int outputs_of(Int rows) { return std::max<Int>(1, std::min<Int>(4, (REGISTERS - 2) / (rows + 1))); }

// sums[r][o] += x_r . w_o of the numbers of a vector.
template <Int rows, Int outputs, typename A, typename T>
INLINE void step(Vector<A>* sums, const A* x, const T* w, Int stride) {
    constexpr Int lanes = Lanes<A>::count;
    of_parts<T>([&](auto part) {
        Vector<A> right[outputs];
        for (Int o = 0; o < outputs; ++o) right[o] = Numbers<T>::template of<part>(w + o * stride);
        for (Int r = 0; r < rows; ++r) {
            const Vector<A> left = load(x + (part * rows + r) * lanes);
            for (Int o = 0; o < outputs; ++o) sums[r * outputs + o] += left * right[o];
        }
    });
}

// out[r][o apart] = x_r . w_(o apart), x packed, rows of w (inputs).
template <Int rows, Int outputs, typename A, typename T>
INLINE void tile(const A* x, const T* w, A* out, Int inputs, Int apart, Int stride) {
    constexpr Int count = Numbers<T>::count;
    Vector<A> sums[rows * outputs] = {};
    Int i = 0;
    for (; i + count <= inputs; i += count) {
        for (Int o = 0; o < outputs; ++o) ask_ahead(w + o * apart * inputs + i);
        step<rows, outputs>(sums, x + i * rows, w + i, apart * inputs);
    }
    if (i < inputs) {
        T rest[outputs * count] = {};
        for (Int o = 0; o < outputs; ++o) std::copy_n(w + o * apart * inputs + i, inputs - i, rest + o * count);
        step<rows, outputs>(sums, x + i * rows, rest, count);
    }
    A found[rows * outputs];
    folded<rows * outputs, A>(sums, found);
    for (Int r = 0; r < rows; ++r)
        for (Int o = 0; o < outputs; ++o) out[r * stride + o * apart] = found[r * outputs + o];
}

// out[r][o] = x_r . w_o for all rows of w (outputs, inputs).
//
// The rows of a tile stand far apart: each is in a stream of its own, and the processor, which knows one stream a page,
// reads ahead in all of them. Asked for by the program alone, memory comes at two thirds of its speed.
template <Int rows, typename A, typename T>
void product(const A* x, const T* w, A* out, Int inputs, Int outputs, Int stride) {
    constexpr Int tiled = outputs_of(rows);
    const Int apart = outputs / tiled;
    for (Int o = 0; o < apart; ++o) tile<rows, tiled>(x, w + o * inputs, out + o, inputs, apart, stride);
    for (Int o = tiled * apart; o < outputs; ++o) tile<rows, 1>(x, w + o * inputs, out + o, inputs, 1, stride);
}

template <typename T>
void few_rows(const T* x, const T* w, const T* bias, T* out, Int rows, Int inputs, Int outputs, Int threads) {
    typedef Sum<T> A;
    const Int piece = std::max(SHORTEST, std::min(LONGEST, outputs / threads / SHORTEST * SHORTEST));
    const Aligned<A> left = packed(x, rows, inputs);
    shared((outputs + piece - 1) / piece, inputs * outputs, threads, [&](Int n) {
        const Int begin = n * piece, count = std::min(piece, outputs - begin);
        A found[MOST * LONGEST];
        for (Int first = 0; first < rows; first += MOST) {
            const Int together = std::min(MOST, rows - first);
            of_rows(rows - first, [&](auto now) {
                product<now>(left.data() + first * upward<T>(inputs), w + begin * inputs, found, inputs, count, piece);
            });
            for (Int r = 0; r < together; ++r) {
                T* to = out + (first + r) * outputs + begin;
                const A* of = found + r * piece;
                for (Int o = 0; o < count; ++o) put(to + o, bias ? of[o] + wide(bias[begin + o]) : of[o]);
            }
        }
    });
}

// out[r] = sum_s weights[r][s] v_s, for so many vectors of the values from `v` on, whose rows stand `stride` apart.
template <Int rows, Int vectors, typename A, typename T>
INLINE void mixed(const A* weights, const T* v, A* out, Int n, Int stride) {
    constexpr Int lanes = Lanes<A>::count, parts = Numbers<T>::parts;
    Vector<A> sums[rows][vectors][parts] = {};
    auto add = [&](Int s) {
        for (Int c = 0; c < vectors; ++c) {
            const T* from = v + s * stride + c * Numbers<T>::count;
            ask_ahead(from);
            of_parts<T>([&](auto part) {
                const Vector<A> value = Numbers<T>::template of<part>(from);
                for (Int r = 0; r < rows; ++r) sums[r][c][part] += weights[r * n + s] * value;
            });
        }
    };
    const Int apart = n / 2;  // two streams
    for (Int s = 0; s < apart; ++s) add(s), add(apart + s);
    if (n % 2) add(n - 1);
    for (Int r = 0; r < rows; ++r)
        for (Int c = 0; c < vectors; ++c)
            for (Int i = 0; i < lanes * parts; ++i)
                out[r * stride + c * lanes * parts + i] = sums[r][c][i % parts][i / parts];
}

template <Int rows, typename A, typename T>
void mixed(const A* weights, const T* v, A* out, Int n, Int width) {
    constexpr Int count = Numbers<T>::count, span = 4 / Numbers<T>::parts;
    Int d = 0;
    for (; d + span * count <= width; d += span * count) mixed<rows, span>(weights, v + d, out + d, n, width);
    for (; d + count <= width; d += count) mixed<rows, 1>(weights, v + d, out + d, n, width);
    for (; d < width; ++d)
        for (Int r = 0; r < rows; ++r) {
            A found = 0;
            for (Int s = 0; s < n; ++s) found += weights[r * n + s] * wide(v[s * width + d]);
            out[r * width + d] = found;
        }
}

template <typename A> A largest(const A* x, Int n) {
    constexpr Int lanes = Lanes<A>::count;
    A most = x[0];
    Int i = 0;
    if (n >= lanes) {
        Vector<A> found = load(x);
        for (i = lanes; i + lanes <= n; i += lanes) found = load(x + i) > found ? load(x + i) : found;
        for (Int lane = 0; lane < lanes; ++lane) most = std::max<A>(most, found[lane]);
    }
    for (; i < n; ++i) most = std::max(most, x[i]);
    return most;
}

// exp((x - most) scale) of n scores in their place; their sum, and its logarithm as that of all exp(x scale).
template <typename A> A exponentials(A* scores, Int n, A scale, A* lse) {
    constexpr Int lanes = Lanes<A>::count;
    const A most = largest(scores, n);
    Vector<A> total = {};
    for (Int s = 0; s < n; s += lanes) {
        const Vector<A> weight = exponential<A>((load(scores + s, n - s) - most) * scale);
        store(scores + s, weight, n - s);
        total += load(scores + s, n - s);
    }
    const A sum = folded<A>(total);
    *lse = most * scale + std::log(sum);
    return sum;
}

// What a head of keys (n, width) and values (n, value_width) answers to the `group` queries that share it: of no keys 0.
template <typename T, typename A = Sum<T>>
void head(const T* q, const T* k, const T* v, T* out, A* lse, Int group, Int n, Int width, Int value_width, A scale) {
    const Aligned<A> queries = packed(q, group, width);
    std::vector<A> scores(group * n), found(group * value_width), sums(group);
    if (!n) {
        std::fill(out, out + group * value_width, T());
        std::fill(lse, lse + group, -std::numeric_limits<A>::infinity());
        return;
    }
    for (Int r = 0; r < group; r += MOST)
        of_rows(group - r, [&](auto now) {
            product<now>(queries.data() + r * upward<T>(width), k, scores.data() + r * n, width, n, n);
        });
    for (Int r = 0; r < group; ++r) sums[r] = exponentials(scores.data() + r * n, n, scale, lse + r);
    for (Int r = 0; r < group; r += REGISTERS / 8)
        of_rows<REGISTERS / 8>(group - r, [&](auto now) {
            mixed<now>(scores.data() + r * n, v, found.data() + r * value_width, n, value_width);
        });
    for (Int r = 0; r < group; ++r)
        for (Int d = 0; d < value_width; ++d) put(out + r * value_width + d, found[r * value_width + d] / sums[r]);
}

// Where keys or values (batch, heads, n, width) begin: their rows and heads stand so far apart.
template <typename T> struct Kept {
    const T* at;
    Int row, head, width;
};

// Which of the n keys of each row count, [begin, end); all of every row where there are no pointers.
struct Spans {
    const Int *begin, *end;
    Int n;
    Int first(Int b) const { return begin ? begin[b] : 0; }
    Int last(Int b) const { return end ? end[b] : n; }
};

template <typename T, typename A = Sum<T>>
void one_query(const T* q, Kept<T> k, Kept<T> v, T* out, A* lse, Int batch, Int heads, Int group, Spans spans, A scale,
               Int threads) {
    shared(batch * heads, batch * heads * spans.n * (k.width + v.width), threads, [&](Int i) {
        const Int b = i / heads, h = i % heads, at = i * group, first = spans.first(b);
        head(q + at * k.width, k.at + b * k.row + h * k.head + first * k.width,
             v.at + b * v.row + h * v.head + first * v.width, out + at * v.width, lse + at, group,
             spans.last(b) - first, k.width, v.width, scale);
    });
}

}  // namespace

#ifndef NUMBER
#define NUMBER float
#endif
typedef Sum<NUMBER> Wide;

extern "C" {

// out (rows, outputs) = x (rows, inputs) w^T (inputs, outputs) + bias (outputs), which may be null.
void few_rows(const NUMBER* x, const NUMBER* w, const NUMBER* bias, NUMBER* out, Int rows, Int inputs, Int outputs,
              Int threads) {
    few_rows<NUMBER>(x, w, bias, out, rows, inputs, outputs, threads);
}

// out (batch, heads, group, value_width) and lse (batch, heads, group), from q (batch, heads, group, width) over the
// keys from begin to end (batch) of each row; both may be null, for all n.
void one_query(const NUMBER* q, const NUMBER* k, const NUMBER* v, NUMBER* out, Wide* lse, const Int* begin,
               const Int* end, Int batch, Int heads, Int group, Int n, Int width, Int value_width, Int k_row, Int k_head,
               Int v_row, Int v_head, double scale, Int threads) {
    one_query<NUMBER>(q, {k, k_row, k_head, width}, {v, v_row, v_head, value_width}, out, lse, batch, heads, group,
                      {begin, end, n}, Wide(scale), threads);
}

// out (batch, heads, width) = x turned in pairs of its halves by cos and sin (batch, width / 2); see `rotary`.
void turn(const NUMBER* x, const Wide* cos, const Wide* sin, NUMBER* out, Int batch, Int heads, Int width, Int row,
          Int head) {
    const Int half = width / 2;
    for (Int n = 0; n < batch * heads; ++n) {
        const Int b = n / heads;
        const NUMBER* of = x + b * row + n % heads * head;
        for (Int i = 0; i < half; ++i) {
            const Wide left = wide(of[i]), right = wide(of[half + i]), c = cos[b * half + i], s = sin[b * half + i];
            put(out + n * width + i, left * c - right * s);
            put(out + n * width + half + i, right * c + left * s);
        }
    }
}

// out (rows, width) = x / sqrt(mean of x^2 + epsilon) gain (width).
void norm(const NUMBER* x, const NUMBER* gain, NUMBER* out, Int rows, Int width, double epsilon) {
    for (Int r = 0; r < rows; ++r) {
        const NUMBER* of = x + r * width;
        Vector<Wide> squares = {};
        Int i = 0;
        for (; i + Numbers<NUMBER>::count <= width; i += Numbers<NUMBER>::count)
            of_parts<NUMBER>([&](auto part) {
                const Vector<Wide> some = Numbers<NUMBER>::of<part>(of + i);
                squares += some * some;
            });
        Wide square = folded<Wide>(squares);
        for (; i < width; ++i) square += wide(of[i]) * wide(of[i]);
        const Wide rate = 1 / std::sqrt(square / width + Wide(epsilon));
        for (i = 0; i < width; ++i) put(out + r * width + i, wide(of[i]) * rate * wide(gain[i]));
    }
}
}
