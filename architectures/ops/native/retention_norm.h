// What follows the recurrence, token by token: y = b(gate) * gain * o / rms(o), and its gradients.
#pragma once

#include "retention_call.h"

template <typename T> class Norm {
  public:
    explicit Norm(const Call& call) : call(call), value(padded(call.value)) {}

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

  private:
    const Call& call;
    const Int value;

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
