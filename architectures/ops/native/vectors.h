// Vectors as wide as the processor's registers, by the extension that gcc and clang share.
//
// A buffer that they run over is aligned by nothing but its element, and its rows are padded to a multiple of PAD
// elements, so that only what comes from and goes to tensors has an end inside a vector.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX512F__)
#define FARFIELD_BYTES 64
#elif defined(__AVX__)
#define FARFIELD_BYTES 32
#else
#define FARFIELD_BYTES 16
#endif

#define INLINE inline __attribute__((always_inline))

typedef int64_t Int;

constexpr Int PAD = 16;  // elements: a multiple of the lanes of every vector below

inline Int padded(Int n) { return (n + PAD - 1) / PAD * PAD; }

template <typename T> struct Bits;
template <> struct Bits<float> { typedef int32_t type; static constexpr int mantissa = 23, bias = 127; };
template <> struct Bits<double> { typedef int64_t type; static constexpr int mantissa = 52, bias = 1023; };

template <typename T> struct Lanes {
    typedef T type __attribute__((vector_size(FARFIELD_BYTES)));
    typedef typename Bits<T>::type whole __attribute__((vector_size(FARFIELD_BYTES)));
    static constexpr Int count = FARFIELD_BYTES / sizeof(T);
};

template <typename T> using Vector = typename Lanes<T>::type;

template <typename T> INLINE Vector<T> load(const T* from) {
    Vector<T> x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

template <typename T> INLINE void store(T* to, Vector<T> x) { std::memcpy(to, &x, sizeof x); }

// The first `n` lanes; zeros in the others.
template <typename T> INLINE Vector<T> load(const T* from, Int n) {
    if (n >= Lanes<T>::count) return load(from);
    Vector<T> x = {};
    std::memcpy(&x, from, n * sizeof(T));
    return x;
}

template <typename T> INLINE void store(T* to, Vector<T> x, Int n) {
    if (n >= Lanes<T>::count) store(to, x);
    else std::memcpy(to, &x, n * sizeof(T));
}

template <typename T> INLINE T sum(Vector<T> x) {
    T total = 0;
    for (Int lane = 0; lane < Lanes<T>::count; ++lane) total += x[lane];
    return total;
}

// exp(x) by 2^n times a Taylor polynomial of the rest, within two units of the last place; inf, 0 and NaN as they should be.
template <typename T> INLINE Vector<T> exponential(Vector<T> x) {
    typedef typename Lanes<T>::whole Whole;
    constexpr bool wide = sizeof(T) == 8;
    constexpr T log2e = T(1.4426950408889634074), magic = T(wide ? 6755399441055744.0 : 12582912.0);
    constexpr T high = T(wide ? 6.93147180369123816490e-01 : 0.693359375);
    constexpr T low = T(wide ? 1.90821492927058770002e-10 : -2.12194440e-4);
    constexpr T most = T(wide ? 709.78 : 88.72), least = T(wide ? -708.0 : -87.0);
    constexpr int degree = wide ? 13 : 7;
    constexpr T factors[] = {T(1), T(1), T(1. / 2), T(1. / 6), T(1. / 24), T(1. / 120), T(1. / 720), T(1. / 5040),
                             T(1. / 40320), T(1. / 362880), T(1. / 3628800), T(1. / 39916800), T(1. / 479001600),
                             T(1. / 6227020800.)};
    const Vector<T> zero = {};
    Vector<T> bounded = x > most ? zero + most : x;
    bounded = bounded < least ? zero + least : bounded;
    Vector<T> shifted = bounded * log2e + magic;  // the lowest bits of the mantissa are n
    Vector<T> count = shifted - magic;
    Vector<T> rest = (bounded - count * high) - count * low;
    Vector<T> power = zero + factors[degree];
    for (int n = degree - 1; n >= 0; --n) power = power * rest + factors[n];
    Whole bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + Bits<T>::bias) << Bits<T>::mantissa;  // what stands above n is shifted out
    Vector<T> scale;
    std::memcpy(&scale, &bits, sizeof scale);
    Vector<T> found = power * scale;
    found = x > most ? zero + std::numeric_limits<T>::infinity() : found;
    return x < least ? zero : found;
}

template <typename T> INLINE Vector<T> sigmoid(Vector<T> x) { return T(1) / (T(1) + exponential<T>(-x)); }

#if defined(__clang__) || __GNUC__ >= 12
#define FARFIELD_SHUFFLED 1
// Lanes of a and b in turn, from the lower halves of both or from the upper ones.
template <typename T, bool upper> INLINE Vector<T> interleaved(Vector<T> a, Vector<T> b) {
    constexpr Int count = Lanes<T>::count, from = upper ? count / 2 : 0;
#define PAIR(i) from + i, from + i + count
    if constexpr (count == 16)
        return __builtin_shufflevector(a, b, PAIR(0), PAIR(1), PAIR(2), PAIR(3), PAIR(4), PAIR(5), PAIR(6), PAIR(7));
    else if constexpr (count == 8)
        return __builtin_shufflevector(a, b, PAIR(0), PAIR(1), PAIR(2), PAIR(3));
    else if constexpr (count == 4)
        return __builtin_shufflevector(a, b, PAIR(0), PAIR(1));
    else
        return __builtin_shufflevector(a, b, PAIR(0));
#undef PAIR
}
#endif

// `to` (columns, rows) of `from` (rows, columns), rows and columns multiples of PAD.
template <typename T> void transpose(Int rows, Int columns, const T* from, Int stride, T* to, Int to_stride) {
#if FARFIELD_SHUFFLED
    constexpr Int count = Lanes<T>::count;
    for (Int i = 0; i < rows; i += count) {
        for (Int j = 0; j < columns; j += count) {
            Vector<T> x[count], y[count];
            for (Int n = 0; n < count; ++n) x[n] = load(from + (i + n) * stride + j);
            for (Int step = 1; step < count; step *= 2) {  // a perfect shuffle of all, as often as lanes are halved
                for (Int n = 0; n < count / 2; ++n) {
                    y[2 * n] = interleaved<T, false>(x[n], x[n + count / 2]);
                    y[2 * n + 1] = interleaved<T, true>(x[n], x[n + count / 2]);
                }
                for (Int n = 0; n < count; ++n) x[n] = y[n];
            }
            for (Int n = 0; n < count; ++n) store(to + (j + n) * to_stride + i, x[n]);
        }
    }
#else
    for (Int i = 0; i < rows; ++i)
        for (Int j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * stride + j];
#endif
}
