// What a decoded token costs most, each for a few rows: a product with a matrix, and attention of one query a head.
//
// Both read what is large, weights or keys and values, once from memory and in its order. Rows are summed in the same
// order however many there are. Numbers of 16 bits (bfloat16) are widened in registers, added up as float32 and rounded
// to the nearest once.
#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "teams.h"
#include "vectors.h"

namespace {

using ::load;
using ::store;

constexpr Int REGISTERS = FARFIELD_BYTES == 64 ? 32 : 16;
constexpr Int AHEAD = 8192;  // bytes, at least, that are asked for before they are needed
constexpr Int MOST = 8;      // rows of one pass over the matrix
constexpr Int NUMBERS = 1 << 18;  // read by a thread that is worth its beginning

struct Brain {
    uint16_t bits;
};

template <typename T> struct Summed { typedef T type; };
template <> struct Summed<Brain> { typedef float type; };

INLINE float wide(float x) { return x; }
INLINE double wide(double x) { return x; }
INLINE float wide(Brain x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float found;
    std::memcpy(&found, &bits, sizeof found);
    return found;
}

INLINE Vector<float> load(const Brain* from) {
    typedef uint16_t Narrow __attribute__((vector_size(FARFIELD_BYTES / 2)));
    typedef uint32_t Whole __attribute__((vector_size(FARFIELD_BYTES)));
    Narrow narrow;
    std::memcpy(&narrow, from, sizeof narrow);
    const Whole bits = __builtin_convertvector(narrow, Whole) << 16;
    Vector<float> found;
    std::memcpy(&found, &bits, sizeof found);
    return found;
}

INLINE void put(float* to, float x) { *to = x; }
INLINE void put(double* to, double x) { *to = x; }
INLINE void put(Brain* to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    to->bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The next multiple of the lanes of a vector.
template <typename A> constexpr Int upward(Int n) { return (n + Lanes<A>::count - 1) / Lanes<A>::count * Lanes<A>::count; }

// Sum of the lanes, halves added to halves.
template <typename A> INLINE A folded(Vector<A> x) {
    A lanes[Lanes<A>::count];
    std::memcpy(lanes, &x, sizeof x);
    for (Int half = Lanes<A>::count / 2; half; half /= 2)
        for (Int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

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

// `x` (rows, inputs) as `tile` reads it: of MOST rows at a time a vector each, in turn; zeros behind the inputs.
template <typename A, typename T> std::vector<A> packed(const T* x, Int rows, Int inputs) {
    constexpr Int lanes = Lanes<A>::count;
    std::vector<A> found(rows * upward<A>(inputs));
    for (Int r = 0; r < rows; ++r) {
        const Int first = r / MOST * MOST, together = std::min(MOST, rows - first);
        A* to = found.data() + first * upward<A>(inputs) + (r - first) * lanes;
        for (Int i = 0; i < inputs; ++i) to[i / lanes * together * lanes + i % lanes] = wide(x[r * inputs + i]);
    }
    return found;
}

// Rows of the matrix at a time for so many rows of x: as many as there are registers for.
constexpr Int outputs_of(Int rows) { return std::max<Int>(1, std::min<Int>(4, (REGISTERS - 2) / (rows + 1))); }

// out[r][o] = x_r . w_o (+ bias_o), x packed, w (outputs, inputs).
template <Int rows, Int outputs, typename A, typename T, typename O>
INLINE void tile(const A* x, const T* w, const T* bias, O* out, Int inputs, Int stride) {
    constexpr Int lanes = Lanes<A>::count;
    Vector<A> sums[rows][outputs] = {};
    const Int together = outputs * inputs * Int(sizeof(T)), ahead = (AHEAD + together - 1) / together * together;
    Int i = 0;
    for (; i + lanes <= inputs; i += lanes) {
        Vector<A> right[outputs];
        for (Int o = 0; o < outputs; ++o) {
            right[o] = load(w + o * inputs + i);
            __builtin_prefetch(reinterpret_cast<const char*>(w + o * inputs + i) + ahead, 0, 2);
        }
        for (Int r = 0; r < rows; ++r) {
            const Vector<A> left = load(x + i * rows + r * lanes);
            for (Int o = 0; o < outputs; ++o) sums[r][o] += left * right[o];
        }
    }
    for (Int r = 0; r < rows; ++r) {
        for (Int o = 0; o < outputs; ++o) {
            A found = folded<A>(sums[r][o]);
            for (Int rest = i; rest < inputs; ++rest)
                found += x[i * rows + r * lanes + rest - i] * wide(w[o * inputs + rest]);
            put(out + r * stride + o, bias ? found + wide(bias[o]) : found);
        }
    }
}

template <Int rows, typename A, typename T, typename O>
void product(const A* x, const T* w, const T* bias, O* out, Int inputs, Int outputs, Int begin, Int end) {
    constexpr Int tiled = outputs_of(rows);
    Int o = begin;
    for (; o + tiled <= end; o += tiled)
        tile<rows, tiled>(x, w + o * inputs, bias ? bias + o : nullptr, out + o, inputs, outputs);
    for (; o < end; ++o) tile<rows, 1>(x, w + o * inputs, bias ? bias + o : nullptr, out + o, inputs, outputs);
}

template <typename T>
void few_rows(const T* x, const T* w, const T* bias, T* out, Int rows, Int inputs, Int outputs, Int threads) {
    typedef typename Summed<T>::type A;
    constexpr Int piece = 48;  // rows of the matrix
    const std::vector<A> left = packed<A>(x, rows, inputs);
    shared((outputs + piece - 1) / piece, inputs * outputs, threads, [&](Int n) {
        const Int begin = n * piece, end = std::min(outputs, begin + piece);
        for (Int r = 0; r < rows; r += MOST)
            of_rows(rows - r, [&](auto now) {
                product<now>(left.data() + r * upward<A>(inputs), w, bias, out + r * outputs, inputs, outputs, begin, end);
            });
    });
}

// out[r] = sum_s weights[r][s] v_s, for so many vectors of the values from `v` on, whose rows stand `stride` apart.
template <Int rows, Int vectors, typename A, typename T>
INLINE void mixed(const A* weights, const T* v, A* out, Int n, Int stride) {
    constexpr Int lanes = Lanes<A>::count;
    Vector<A> sums[rows][vectors] = {};
    for (Int s = 0; s < n; ++s) {
        Vector<A> value[vectors];
        for (Int c = 0; c < vectors; ++c) value[c] = load(v + s * stride + c * lanes);
        __builtin_prefetch(reinterpret_cast<const char*>(v + s * stride) + AHEAD);
        for (Int r = 0; r < rows; ++r)
            for (Int c = 0; c < vectors; ++c) sums[r][c] += weights[r * n + s] * value[c];
    }
    for (Int r = 0; r < rows; ++r)
        for (Int c = 0; c < vectors; ++c) store(out + r * stride + c * lanes, sums[r][c]);
}

template <Int rows, typename A, typename T>
void mixed(const A* weights, const T* v, A* out, Int n, Int width) {
    constexpr Int lanes = Lanes<A>::count, span = 4;
    Int d = 0;
    for (; d + span * lanes <= width; d += span * lanes) mixed<rows, span>(weights, v + d, out + d, n, width);
    for (; d + lanes <= width; d += lanes) mixed<rows, 1>(weights, v + d, out + d, n, width);
    for (; d < width; ++d)
        for (Int r = 0; r < rows; ++r) {
            A found = 0;
            for (Int s = 0; s < n; ++s) found += weights[r * n + s] * wide(v[s * width + d]);
            out[r * width + d] = found;
        }
}

// exp((x - most) scale) of n scores in their place; their sum, and its logarithm as that of all exp(x scale).
template <typename A> A exponentials(A* scores, Int n, A scale, A* lse) {
    constexpr Int lanes = Lanes<A>::count;
    A most = scores[0];
    for (Int s = 1; s < n; ++s) most = scores[s] > most ? scores[s] : most;
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
template <typename T, typename A = typename Summed<T>::type>
void head(const T* q, const T* k, const T* v, T* out, A* lse, Int group, Int n, Int width, Int value_width, A scale) {
    const std::vector<A> queries = packed<A>(q, group, width);
    std::vector<A> scores(group * n), found(group * value_width), sums(group);
    if (!n) {
        std::fill(out, out + group * value_width, T());
        std::fill(lse, lse + group, -std::numeric_limits<A>::infinity());
        return;
    }
    const T* none = nullptr;
    for (Int r = 0; r < group; r += MOST)
        of_rows(group - r, [&](auto now) {
            product<now>(queries.data() + r * upward<A>(width), k, none, scores.data() + r * n, width, n, 0, n);
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

template <typename T, typename A = typename Summed<T>::type>
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
typedef Summed<NUMBER>::type Wide;

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
        for (; i + Lanes<Wide>::count <= width; i += Lanes<Wide>::count) squares += load(of + i) * load(of + i);
        Wide square = folded<Wide>(squares);
        for (; i < width; ++i) square += wide(of[i]) * wide(of[i]);
        const Wide rate = 1 / std::sqrt(square / width + Wide(epsilon));
        for (i = 0; i < width; ++i) put(out + r * width + i, wide(of[i]) * rate * wide(gain[i]));
    }
}
}
