// Products of matrices that stay in the cache: row by row, columns padded to a multiple of PAD, rows to one of ROWS.
//
// Each is made in tiles of ROWS rows by up to SPAN vectors of registers. Of triangles only the tiles that hold something
// are made: as ROWS divides PAD, a tile of rows from i on has nothing behind column i + ROWS.
#pragma once

#include <type_traits>

#include "vectors.h"

#ifndef FARFIELD_ROWS
#define FARFIELD_ROWS 4
#endif
#ifndef FARFIELD_SPAN
#define FARFIELD_SPAN (FARFIELD_BYTES == 64 ? 4 : 2)
#endif
constexpr Int ROWS = FARFIELD_ROWS, SPAN = FARFIELD_SPAN;

inline Int tiled(Int n) { return (n + ROWS - 1) / ROWS * ROWS; }

template <typename T> struct Matrix {
    T* at;
    Int stride;
    Matrix part(Int i, Int j) const { return {at + i * stride + j, stride}; }
};

// The left matrix of a product, as it is or transposed.
template <typename T> struct Left {
    const T* at;
    Int row, step;
    Left from(Int i) const { return {at + i * row, row, step}; }
};
template <typename T> Left<T> plain(Matrix<T> a) { return {a.at, a.stride, 1}; }
template <typename T> Left<T> turned(Matrix<T> a) { return {a.at, 1, a.stride}; }

// `work` for the number of vectors that there are, at most SPAN, as a constant.
template <Int most = SPAN, typename Work> INLINE void of_width(Int vectors, Work work) {
    if (vectors >= most) work(std::integral_constant<Int, most>());
    else if constexpr (most > 1) of_width<most - 1>(vectors, work);
}

template <typename T, Int columns>
INLINE void accumulate(Vector<T> (&sums)[ROWS][columns], Left<T> a, Matrix<T> b, Int begin, Int end) {
    for (Int k = begin; k < end; ++k) {
        Vector<T> right[columns];
        for (Int c = 0; c < columns; ++c) right[c] = load(b.at + k * b.stride + c * Lanes<T>::count);
        for (Int r = 0; r < ROWS; ++r) {
            const T left = a.at[r * a.row + k * a.step];
            for (Int c = 0; c < columns; ++c) sums[r][c] += left * right[c];
        }
    }
}

// What a product is added to: nothing, or what stands there times a number of each row (step 1), or times one (step 0).
template <typename T> struct Start {
    const T* scale = nullptr;
    Int step = 0;
};

// Which of the inner index count: all, those up to a row (left is a lower triangle), those from it on (an upper one).
enum class Depth { all, lower, upper };

// out (rows, columns) = what it begins with + a (rows, depth) b (depth, columns).
template <typename T>
void product(Depth kind, Int rows, Int columns, Int depth, Left<T> a, Matrix<T> b, Matrix<T> out, Start<T> start = {}) {
    constexpr Int lanes = Lanes<T>::count;
    for (Int j = 0; j < columns; j += SPAN * lanes) {
        of_width((columns - j) / lanes, [&](auto width) {
            for (Int i = 0; i < rows; i += ROWS) {
                const Int begin = kind == Depth::upper ? i : 0;
                const Int end = kind == Depth::lower && i + ROWS < depth ? i + ROWS : depth;
                const Matrix<T> to = out.part(i, j);
                Vector<T> sums[ROWS][width] = {};
                if (start.scale)
                    for (Int r = 0; r < ROWS; ++r)
                        for (Int c = 0; c < width; ++c)
                            sums[r][c] = load(to.at + r * to.stride + c * lanes) * start.scale[(i + r) * start.step];
                accumulate<T, width>(sums, a.from(i), b.part(0, j), begin, end);
                for (Int r = 0; r < ROWS; ++r)
                    for (Int c = 0; c < width; ++c) store(to.at + r * to.stride + c * lanes, sums[r][c]);
            }
        });
    }
}

// What is left of pairs: out_ij = (a b)_ij fading[j - i] as far as j <= i needs tiles; fading is 0 where j > i.
template <typename T> void pairs(Int rows, Int depth, Left<T> a, Matrix<T> b, Matrix<T> out, const T* fading) {
    constexpr Int lanes = Lanes<T>::count;
    for (Int i = 0; i < rows; i += ROWS) {
        const Int vectors = (i + ROWS + lanes - 1) / lanes;
        for (Int j = 0; j < vectors; j += SPAN) {
            of_width(vectors - j, [&](auto width) {
                const Matrix<T> to = out.part(i, j * lanes);
                Vector<T> sums[ROWS][width] = {};
                accumulate<T, width>(sums, a.from(i), b.part(0, j * lanes), 0, depth);
                for (Int r = 0; r < ROWS; ++r)
                    for (Int c = 0; c < width; ++c) {
                        const Vector<T> left = load(fading + (j + c) * lanes - i - r);
                        store(to.at + r * to.stride + c * lanes, sums[r][c] * left);
                    }
            });
        }
    }
}
