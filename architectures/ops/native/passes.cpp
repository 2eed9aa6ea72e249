// What a training step does between its products of matrices: gates, norms, heads turned by position, a softmax over
// the vocabulary. Each goes through memory once, forward and backward.
#include <algorithm>

#include "crew.h"
#include "vectors.h"

namespace {

constexpr Int BLOCK = 1 << 15;  // numbers of a block of work, about, that a thread takes at a time
constexpr Int SUMMED = 64;      // tokens whose gradients of a gain are summed apart: by no number of threads

Int rows_of(Int width) { return std::max<Int>(1, BLOCK / std::max<Int>(1, width)); }

// work(row) for each of `count` rows of about `width` numbers.
template <typename Work> void each_row(Crew crew, Int count, Int width, Work work) {
    const Int rows = rows_of(width);
    share(crew, (count + rows - 1) / rows, [&](Int block) {
        for (Int row = block * rows, end = std::min(count, row + rows); row < end; ++row) work(row);
    });
}

// work(i, lanes) for vectors from i on, all of them whole but for the last.
template <typename T, typename Work> INLINE void across(Int count, Work work) {
    constexpr Int lanes = Lanes<T>::count;
    Int i = 0;
    for (; i + lanes <= count; i += lanes) work(i, std::integral_constant<Int, lanes>());
    if (i < count) work(i, count - i);
}

// product (inner,) = silu(gate) value of both = [gate, value].
template <typename T> void gate_row(const T* both, T* product, Int inner) {
    across<T>(inner, [&](Int i, auto n) {
        const Vector<T> gate = load(both + i, n), value = load(both + inner + i, n);
        store(product + i, gate * sigmoid<T>(gate) * value, n);
    });
}

// The product once more and, from its gradient, that of both.
template <typename T> void gate_row_backward(const T* both, const T* above, T* product, T* on_both, Int inner) {
    across<T>(inner, [&](Int i, auto n) {
        const Vector<T> gate = load(both + i, n), value = load(both + inner + i, n), given = load(above + i, n);
        const Vector<T> share = sigmoid<T>(gate), opened = gate * share;
        store(product + i, opened * value, n);
        store(on_both + i, given * value * (share * (T(1) + gate * (T(1) - share))), n);
        store(on_both + inner + i, given * opened, n);
    });
}

// out = x turned by the angles in pairs of its halves, back where sign is -1; a copy where there are no angles.
template <typename T> INLINE void turn(const T* x, T* out, const T* cosine, const T* sine, T sign, Int width) {
    const Int half = width / 2;
    if (!cosine) {
        std::memcpy(out, x, width * sizeof(T));
        return;
    }
    across<T>(half, [&](Int i, auto n) {
        const Vector<T> a = load(x + i, n), b = load(x + half + i, n);
        const Vector<T> c = load(cosine + i, n), s = load(sine + i, n) * sign;
        store(out + i, a * c - b * s, n);
        store(out + half + i, b * c + a * s, n);
    });
}

}  // namespace

extern "C" {

// Heads (B, H, T, W) of one kind among those that stand side by side in a token (B, T, all).
struct Kind {
    void* at;
    Int heads, first;  // where its numbers begin in a token
    Int row, head, token;
    Int turned;
};

struct Split {
    Int batch, time, width, all;
    void* together;
    Int row, token;
    const void *cosine, *sine;  // (B or 1, T, W / 2)
    Int angles_row;
    Kind kinds[3];
};

// Rows (rows, 2 inner) whose numbers stand side by side, one row behind the other, as all that follow.
void gate(void* begin, Int threads, const NUMBER* both, NUMBER* product, Int rows, Int inner) {
    each_row({begin, threads}, rows, 3 * inner,
             [&](Int row) { gate_row(both + 2 * row * inner, product + row * inner, inner); });
}

void gate_backward(void* begin, Int threads, const NUMBER* both, const NUMBER* above, NUMBER* product, NUMBER* on_both,
                   Int rows, Int inner) {
    each_row({begin, threads}, rows, 6 * inner, [&](Int row) {
        gate_row_backward(both + 2 * row * inner, above + row * inner, product + row * inner, on_both + 2 * row * inner, inner);
    });
}

// From the token to heads (backward 0), turned where their kind is, or from their gradients to the token's.
void heads(void* begin, Int threads, const Split* split, Int backward) {
    const Int rows = rows_of(2 * split->all), blocks = (split->time + rows - 1) / rows, width = split->width;
    share({begin, threads}, split->batch * blocks, [&](Int block) {
        const Int b = block / blocks, end = std::min(split->time, (block % blocks + 1) * rows);
        const NUMBER *cosine = static_cast<const NUMBER*>(split->cosine), *sine = static_cast<const NUMBER*>(split->sine);
        for (Int t = block % blocks * rows; t < end; ++t) {
            NUMBER* token = static_cast<NUMBER*>(split->together) + b * split->row + t * split->token;
            const Int angle = b * split->angles_row + t * (width / 2);
            for (const Kind& kind : split->kinds) {
                const NUMBER* c = kind.turned ? cosine + angle : nullptr;
                NUMBER* at = static_cast<NUMBER*>(kind.at) + b * kind.row + t * kind.token;
                for (Int h = 0; h < kind.heads; ++h) {
                    NUMBER *one = token + kind.first + h * width, *head = at + h * kind.head;
                    if (backward) turn(head, one, c, sine + angle, NUMBER(-1), width);
                    else turn<NUMBER>(one, head, c, sine + angle, NUMBER(1), width);
                }
            }
        }
    });
}

// y = gain x rate, rate = (mean x^2 + epsilon)^(-1/2), of rows (rows, width).
void norm(void* begin, Int threads, const NUMBER* x, const NUMBER* gain, NUMBER* y, NUMBER* rate, Int rows, Int width,
          double epsilon) {
    each_row({begin, threads}, rows, 2 * width, [&](Int row) {
        const NUMBER* from = x + row * width;
        Vector<NUMBER> squares = {};
        across<NUMBER>(width, [&](Int i, auto n) {
            const Vector<NUMBER> one = load(from + i, n);
            squares += one * one;
        });
        const NUMBER found = NUMBER(1) / std::sqrt(sum<NUMBER>(squares) / NUMBER(width) + NUMBER(epsilon));
        rate[row] = found;
        across<NUMBER>(width, [&](Int i, auto n) {
            store(y + row * width + i, load(from + i, n) * found * load(gain + i, n), n);
        });
    });
}

// Blocks of tokens whose gradients of the gain are summed apart.
Int norm_blocks(Int rows) { return (rows + SUMMED - 1) / SUMMED; }

// on_x (rows, width), and on_gain (norm_blocks(rows), width), to be summed.
void norm_backward(void* begin, Int threads, const NUMBER* x, const NUMBER* gain, const NUMBER* rate, const NUMBER* above,
                   NUMBER* on_x, NUMBER* on_gain, Int rows, Int width) {
    share({begin, threads}, norm_blocks(rows), [&](Int block) {
        NUMBER* total = on_gain + block * width;
        std::fill(total, total + width, NUMBER(0));
        for (Int row = block * SUMMED, end = std::min(rows, row + SUMMED); row < end; ++row) {
            const NUMBER *from = x + row * width, *dy = above + row * width, r = rate[row];
            Vector<NUMBER> along = {};
            across<NUMBER>(width, [&](Int i, auto n) {
                const Vector<NUMBER> both = load(from + i, n) * load(dy + i, n);
                along += both * load(gain + i, n);
                store(total + i, load(total + i, n) + both * r, n);
            });
            const NUMBER shrink = sum<NUMBER>(along) * r * r * r / NUMBER(width);
            across<NUMBER>(width, [&](Int i, auto n) {
                store(on_x + row * width + i, load(dy + i, n) * load(gain + i, n) * r - load(from + i, n) * shrink, n);
            });
        }
    });
}

// losses (rows,) of targets, nats; scores (rows, width) become their softmax, less one at the target where `surplus`.
void shares(void* begin, Int threads, NUMBER* scores, const Int* targets, NUMBER* losses, Int rows, Int width, Int surplus) {
    each_row({begin, threads}, rows, width, [&](Int row) {
        NUMBER *at = scores + row * width, right = at[targets[row]];
        const Vector<NUMBER> zero = {};
        Vector<NUMBER> most = zero - std::numeric_limits<NUMBER>::infinity(), total = zero;
        Int i = 0;
        for (; i + Lanes<NUMBER>::count <= width; i += Lanes<NUMBER>::count) {
            const Vector<NUMBER> x = load(at + i);
            most = x > most ? x : most;
        }
        NUMBER highest = most[0];
        for (Int lane = 1; lane < Lanes<NUMBER>::count; ++lane) highest = std::max<NUMBER>(highest, most[lane]);
        for (; i < width; ++i) highest = std::max(highest, at[i]);
        across<NUMBER>(width, [&](Int j, auto n) {
            const Vector<NUMBER> x = exponential<NUMBER>(load(at + j, n) - highest);
            store(at + j, x, n);
            total += load(at + j, n);  // with zeros behind the last
        });
        const NUMBER whole = sum<NUMBER>(total), part = NUMBER(1) / whole;
        across<NUMBER>(width, [&](Int j, auto n) { store(at + j, load(at + j, n) * part, n); });
        losses[row] = std::log(whole) + highest - right;
        if (surplus) at[targets[row]] -= NUMBER(1);
    });
}
}
