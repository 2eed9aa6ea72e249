// Numbers as they stand in memory, and the wider ones that they are summed in.
//
// Those of 16 bits (bfloat16) are widened in registers, added up as float32 and rounded to the nearest once.
#pragma once

#include <type_traits>
#include <vector>

#include "vectors.h"

struct Brain {
    uint16_t bits;
};

INLINE float wide(float x) { return x; }
INLINE double wide(double x) { return x; }
INLINE float wide(Brain x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float found;
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

// A vector of numbers from memory is `parts` vectors of the numbers that they are summed in.
template <typename T> struct Numbers {
    typedef T Sum;
    static constexpr Int parts = 1, count = Lanes<T>::count;
    template <Int part> static INLINE Vector<T> of(const T* from) { return load(from); }
};

// Its even numbers and its odd ones, in the lower and the upper halves of words: an operation each.
template <> struct Numbers<Brain> {
    typedef float Sum;
    static constexpr Int parts = 2, count = 2 * Lanes<float>::count;
    template <Int part> static INLINE Vector<float> of(const Brain* from) {
        static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "even numbers stand in the lower halves");
        typedef uint32_t Words __attribute__((vector_size(FARFIELD_BYTES)));
        Words words;
        std::memcpy(&words, from, sizeof words);
        words = part ? words & 0xffff0000u : words << 16;
        Vector<float> found;
        std::memcpy(&found, &words, sizeof found);
        return found;
    }
};

template <typename T> using Sum = typename Numbers<T>::Sum;

// `work` for the number of each part as a constant.
template <typename T, typename Work> INLINE void of_parts(Work work) {
    work(std::integral_constant<Int, 0>());
    if constexpr (Numbers<T>::parts > 1) work(std::integral_constant<Int, 1>());
}

// The next multiple of the numbers of a vector.
template <typename T> constexpr Int upward(Int n) {
    return (n + Numbers<T>::count - 1) / Numbers<T>::count * Numbers<T>::count;
}

// Sum of the lanes, halves added to halves.
template <typename A> INLINE A folded(Vector<A> x) {
    A lanes[Lanes<A>::count];
    std::memcpy(lanes, &x, sizeof x);
    for (Int half = Lanes<A>::count / 2; half; half /= 2)
        for (Int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

// The same of `count` vectors, which are used up: of two at a time in one, as long as there are two.
template <Int count, typename A> INLINE void folded(Vector<A>* x, A* to) {
#if FARFIELD_SHUFFLED
    constexpr Int lanes = Lanes<A>::count;
    constexpr Int together = count >= lanes ? lanes : count >= 8 ? 8 : count >= 4 ? 4 : count >= 2 ? 2 : 1;
    Int left = together;
    for (; left > 1; left /= 2)
        for (Int n = 0; n < left / 2; ++n)
            x[n] = interleaved<A, false>(x[n], x[n + left / 2]) + interleaved<A, true>(x[n], x[n + left / 2]);
    A found[lanes];
    std::memcpy(found, x, sizeof found);
    for (Int half = lanes / 2; half >= together; half /= 2)
        for (Int i = 0; i < half; ++i) found[i] += found[i + half];
    std::memcpy(to, found, together * sizeof(A));
    if constexpr (count > together) folded<count - together, A>(x + together, to + together);
#else
    for (Int n = 0; n < count; ++n) to[n] = folded<A>(x[n]);
#endif
}

// So many numbers at the border of a vector: one that crosses a cache line takes two reads.
template <typename A> class Aligned {
  public:
    explicit Aligned(Int count) : lines((count + Lanes<A>::count - 1) / Lanes<A>::count) {}
    A* data() { return lines.data()->lanes; }
    const A* data() const { return lines.data()->lanes; }

  private:
    struct alignas(FARFIELD_BYTES) Line { A lanes[Lanes<A>::count]; };
    std::vector<Line> lines;
};
