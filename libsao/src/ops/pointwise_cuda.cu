// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda_device.h"

namespace sao::ops::cuda {
namespace {

// One block a row.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    rms_norm_rows(int width, const T* x, const T* weight, bool zero_centered, float eps, T* y, float* inverse_rms) {
  const std::int64_t row = blockIdx.x;
  const T* from = x + row * width;
  T* to = y + row * width;
  const int first = static_cast<int>(threadIdx.x) * kPack;
  float squares = 0.0f;
  for (int i = first; i < width; i += kThreads * kPack) {
    const Pack<T, kPack> a = load<kPack>(from + i);
    for (int e = 0; e < kPack; ++e) squares += to_float(a.value[e]) * to_float(a.value[e]);
  }
  const float inverse = rsqrtf(block_sum(squares) / static_cast<float>(width) + eps);
  if (inverse_rms != nullptr && threadIdx.x == 0) inverse_rms[row] = inverse;
  for (int i = first; i < width; i += kThreads * kPack) {
    const Pack<T, kPack> a = load<kPack>(from + i), w = load<kPack>(weight + i);
    Pack<T, kPack> out;
    for (int e = 0; e < kPack; ++e) {
      const float normalised = to_float(a.value[e]) * inverse;
      out.value[e] = from_float<T>(zero_centered ? normalised * (1.0f + to_float(w.value[e]))
                                                 : rounded<T>(normalised) * to_float(w.value[e]));
    }
    store<kPack>(to + i, out);
  }
}

// One block a row, which it holds in registers: a thread has kHeld packs of columns kThreads * kPack apart.
template <class T, int kPack, int kHeld>
__global__ void __launch_bounds__(kThreads)
    residual_norm_rows(int width, const T* h, const T* update, const T* update_weight, const T* weight,
                       bool zero_centered, float eps, T* sum, T* y) {
  using Row = Pack<T, kPack>[kHeld];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * width;
  const auto each = [&](const auto& use) {
    SAO_UNROLL
    for (int p = 0; p < kHeld; ++p) {
      const int i = (static_cast<int>(threadIdx.x) + p * kThreads) * kPack;
      if (i < width) use(p, i);
    }
  };
  const auto read = [&](Row& to, const T* from) {
    if (from != nullptr) each([&](int p, int i) { to[p] = load<kPack>(from + i); });
  };
  const auto inverse_of = [&](const Row& row) {
    float squares = 0.0f;
    each([&](int p, int) {
      for (int e = 0; e < kPack; ++e) squares += to_float(row[p].value[e]) * to_float(row[p].value[e]);
    });
    return rsqrtf(block_sum(squares) / static_cast<float>(width) + eps);
  };
  const auto norm = [&](Row& row, const Row& scale, float inverse) {
    each([&](int p, int) {
      for (int e = 0; e < kPack; ++e) {
        const float x = to_float(row[p].value[e]), w = to_float(scale[p].value[e]);
        row[p].value[e] = from_float<T>(zero_centered ? x * inverse * (1.0f + w) : rounded<T>(x * inverse) * w);
      }
    });
  };

  Row row, old, scale;
  read(row, update + begin);
  read(old, h + begin);
  read(scale, update_weight);
  if (update_weight != nullptr) norm(row, scale, inverse_of(row));
  read(scale, weight);
  each([&](int p, int i) {
    for (int e = 0; e < kPack; ++e) {
      row[p].value[e] = from_float<T>(to_float(old[p].value[e]) + to_float(row[p].value[e]));
    }
    store<kPack>(sum + begin + i, row[p]);
  });
  if (weight == nullptr) return;
  norm(row, scale, inverse_of(row));
  each([&](int p, int i) { store<kPack>(y + begin + i, row[p]); });
}

// The same of rows that do not fit: a thread has the same columns each time, so what it wrote it can read.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    residual_norm_wide(int width, const T* h, const T* update, const T* update_weight, const T* weight,
                       bool zero_centered, float eps, T* sum, T* y) {
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * width;
  const int first = static_cast<int>(threadIdx.x) * kPack;
  const auto normed = [&](float x, float inverse, float w) {
    return from_float<T>(zero_centered ? x * inverse * (1.0f + w) : rounded<T>(x * inverse) * w);
  };
  float inverse = 0.0f;
  if (update_weight != nullptr) {
    float squares = 0.0f;
    for (int i = first; i < width; i += kThreads * kPack) {
      const Pack<T, kPack> a = load<kPack>(update + begin + i);
      for (int e = 0; e < kPack; ++e) squares += to_float(a.value[e]) * to_float(a.value[e]);
    }
    inverse = rsqrtf(block_sum(squares) / static_cast<float>(width) + eps);
  }
  float squares = 0.0f;
  for (int i = first; i < width; i += kThreads * kPack) {
    const Pack<T, kPack> old = load<kPack>(h + begin + i), a = load<kPack>(update + begin + i);
    Pack<T, kPack> w = a, out;
    if (update_weight != nullptr) w = load<kPack>(update_weight + i);
    for (int e = 0; e < kPack; ++e) {
      const T added =
          update_weight != nullptr ? normed(to_float(a.value[e]), inverse, to_float(w.value[e])) : a.value[e];
      out.value[e] = from_float<T>(to_float(old.value[e]) + to_float(added));
      squares += to_float(out.value[e]) * to_float(out.value[e]);
    }
    store<kPack>(sum + begin + i, out);
  }
  if (weight == nullptr) return;
  inverse = rsqrtf(block_sum(squares) / static_cast<float>(width) + eps);
  for (int i = first; i < width; i += kThreads * kPack) {
    const Pack<T, kPack> a = load<kPack>(sum + begin + i), w = load<kPack>(weight + i);
    Pack<T, kPack> out;
    for (int e = 0; e < kPack; ++e) out.value[e] = normed(to_float(a.value[e]), inverse, to_float(w.value[e]));
    store<kPack>(y + begin + i, out);
  }
}

// Block p takes the rows p, p + gridDim.x, ... A thread has the same columns in every row, so it adds their part of the
// weight's gradient alone: in shared memory, or in place when a row does not fit there.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    rms_norm_backward_rows(std::int64_t rows, int width, bool in_shared, const T* x, const T* weight,
                           bool zero_centered, const float* inverse_rms, const T* y_grad, T* x_grad,
                           float* weight_grads) {
  float* part = weight_grads + static_cast<std::int64_t>(blockIdx.x) * width;
  float* sums = in_shared ? reinterpret_cast<float*>(dynamic_shared) : part;
  const int first = static_cast<int>(threadIdx.x) * kPack;
  const float offset = zero_centered ? 1.0f : 0.0f;
  for (int i = first; i < width; i += kThreads * kPack) {
    for (int e = 0; e < kPack; ++e) sums[i + e] = 0.0f;
  }
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const std::int64_t at = row * width;
    const float inverse = inverse_rms[row];
    float product = 0.0f;
    for (int i = first; i < width; i += kThreads * kPack) {
      const Pack<T, kPack> a = load<kPack>(x + at + i), w = load<kPack>(weight + i), g = load<kPack>(y_grad + at + i);
      for (int e = 0; e < kPack; ++e) {
        product += to_float(g.value[e]) * (offset + to_float(w.value[e])) * to_float(a.value[e]);
      }
    }
    const float pull = block_sum(product) * inverse * inverse * inverse / static_cast<float>(width);
    for (int i = first; i < width; i += kThreads * kPack) {
      const Pack<T, kPack> a = load<kPack>(x + at + i), w = load<kPack>(weight + i), g = load<kPack>(y_grad + at + i);
      Pack<T, kPack> out;
      for (int e = 0; e < kPack; ++e) {
        const float xe = to_float(a.value[e]), ge = to_float(g.value[e]);
        out.value[e] = from_float<T>(ge * (offset + to_float(w.value[e])) * inverse - xe * pull);
        sums[i + e] += ge * xe * inverse;
      }
      store<kPack>(x_grad + at + i, out);
    }
  }
  if (!in_shared) return;
  for (int i = first; i < width; i += kThreads * kPack) {
    for (int e = 0; e < kPack; ++e) part[i + e] = sums[i + e];
  }
}

// One block a token.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    rotate(int heads, int head_dim, const T* x, std::int64_t x_stride, const std::int64_t* positions,
           const float* cosines, const float* sines, float sign, T* y) {
  const std::int64_t token = blockIdx.x;
  const int half = head_dim / 2, packs = half / kPack;
  const T* from = x + token * x_stride;
  T* to = y + token * heads * head_dim;
  const std::int64_t angles = positions[token] * half;
  for (int i = static_cast<int>(threadIdx.x); i < heads * packs; i += kThreads) {
    const int d = i % packs * kPack, at = i / packs * head_dim + d;
    const Halves<T, kPack> out = turned<kPack>(from + at, half, cosines + angles + d, sines + angles + d, sign);
    store<kPack>(to + at, out.low);
    store<kPack>(to + at + half, out.high);
  }
}

struct Activation {
  float value, slope;
};

// gelu_pytorch_tanh or silu, and the derivative. Both are x sigmoid(f(x)): (1 + tanh u) / 2 = sigmoid(2 u), which keeps
// the relative accuracy of the small values left of zero.
__device__ Activation activate(GateKind kind, float x) {
  float f = x, slope = 1.0f;
  if (kind == GateKind::kGeluTanh) {
    constexpr float kScale = 1.5957691216057308f, kKappa = 0.044715f;  // 2 sqrt(2 / pi)
    f = kScale * (x + kKappa * x * x * x);
    slope = kScale * (1.0f + 3.0f * kKappa * x * x);
  }
  const float sigmoid = 1.0f / (1.0f + expf(-f));
  return {x * sigmoid, sigmoid + x * sigmoid * (1.0f - sigmoid) * slope};
}

// Each thread one pack; `blocks` blocks a row.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    gate_rows(GateKind kind, int blocks, std::int64_t width, const T* gate, std::int64_t gate_stride, const T* up,
              std::int64_t up_stride, T* y) {
  const std::int64_t row = blockIdx.x / static_cast<unsigned>(blocks);
  const std::int64_t i =
      (static_cast<std::int64_t>(blockIdx.x % static_cast<unsigned>(blocks)) * kThreads + threadIdx.x) * kPack;
  if (i >= width) return;
  const Pack<T, kPack> g = load<kPack>(gate + row * gate_stride + i), u = load<kPack>(up + row * up_stride + i);
  Pack<T, kPack> out;
  for (int e = 0; e < kPack; ++e) {
    out.value[e] = from_float<T>(rounded<T>(activate(kind, to_float(g.value[e])).value) * to_float(u.value[e]));
  }
  store<kPack>(y + row * width + i, out);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) gate_backward(GateKind kind, std::int64_t count, const T* gate, const T* up,
                                                          const T* y_grad, T* gate_grad, T* up_grad) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPack;
  if (i >= count) return;
  const Pack<T, kPack> g = load<kPack>(gate + i), u = load<kPack>(up + i), d = load<kPack>(y_grad + i);
  Pack<T, kPack> dg, du;
  for (int e = 0; e < kPack; ++e) {
    const Activation a = activate(kind, to_float(g.value[e]));
    const float grad = to_float(d.value[e]);
    dg.value[e] = from_float<T>(rounded<T>(grad * to_float(u.value[e])) * a.slope);
    du.value[e] = from_float<T>(grad * rounded<T>(a.value));
  }
  store<kPack>(gate_grad + i, dg);
  store<kPack>(up_grad + i, du);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) cap_numbers(std::int64_t count, const T* x, float cap, float* y) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPack;
  if (i >= count) return;
  const Pack<T, kPack> a = load<kPack>(x + i);
  Pack<float, kPack> out;
  for (int e = 0; e < kPack; ++e) out.value[e] = soft_capped(to_float(a.value[e]), cap);
  store<kPack>(y + i, out);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) add_numbers(std::int64_t count, const T* x, float* sum) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kPack;
  if (i >= count) return;
  const Pack<T, kPack> a = load<kPack>(x + i);
  Pack<float, kPack> out = load<kPack>(sum + i);
  for (int e = 0; e < kPack; ++e) out.value[e] += to_float(a.value[e]);
  store<kPack>(sum + i, out);
}

std::int64_t blocks_for(std::int64_t count, int pack) { return (count + kThreads * pack - 1) / (kThreads * pack); }

}  // namespace

template <class T>
void rms_norm(std::int64_t rows, std::int64_t width, const T* x, const T* weight, bool zero_centered, float eps, T* y,
              float* inverse_rms, void* stream) {
  const bool four = in_packs<4>(x, width) && in_packs<4>(weight, 0) && in_packs<4>(y, width);
  launch(four ? rms_norm_rows<T, 4> : rms_norm_rows<T, 1>, rows, 1, 0, stream, static_cast<int>(width), x, weight,
         zero_centered, eps, y, inverse_rms);
}

template <class T>
void residual_norm(std::int64_t rows, std::int64_t width, const T* h, const T* update, const T* update_weight,
                   const T* weight, bool zero_centered, float eps, T* sum, T* y, void* stream) {
  const bool four = in_packs<4>(h, width) && in_packs<4>(update, width) && in_packs<4>(update_weight, 0) &&
                    in_packs<4>(weight, 0) && in_packs<4>(sum, width) && in_packs<4>(y, width);
  const std::int64_t held = blocks_for(width, 4);  // packs that a thread has of a row
  launch(!four       ? residual_norm_wide<T, 1>
         : held <= 1 ? residual_norm_rows<T, 4, 1>
         : held <= 4 ? residual_norm_rows<T, 4, 4>
         : held <= 8 ? residual_norm_rows<T, 4, 8>
                     : residual_norm_wide<T, 4>,
         rows, 1, 0, stream, static_cast<int>(width), h, update, update_weight, weight, zero_centered, eps, sum, y);
}

template <class T>
void rms_norm_backward(std::int64_t rows, std::int64_t width, std::int64_t parts, const T* x, const T* weight,
                       bool zero_centered, const float* inverse_rms, const T* y_grad, T* x_grad, float* weight_grads,
                       void* stream) {
  const bool four =
      in_packs<4>(x, width) && in_packs<4>(weight, 0) && in_packs<4>(y_grad, width) && in_packs<4>(x_grad, width);
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(width);
  const bool in_shared = bytes <= (48u << 10) - 64;  // block_sum needs a little of the 48 KB, too
  launch(four ? rms_norm_backward_rows<T, 4> : rms_norm_backward_rows<T, 1>, parts, 1, in_shared ? bytes : 0, stream,
         rows, static_cast<int>(width), in_shared, x, weight, zero_centered, inverse_rms, y_grad, x_grad, weight_grads);
}

template <class T>
void rotary(std::int64_t tokens, std::int64_t heads, std::int64_t head_dim, const T* x, std::int64_t x_stride,
            const std::int64_t* positions, const float* cosines, const float* sines, float sign, T* y, void* stream) {
  constexpr int kPack = kVector<T>;
  const bool packs = head_dim % (2 * kPack) == 0 && in_packs<kPack>(x, x_stride) && in_packs<kPack>(y, 0) &&
                     in_packs<kPack>(cosines, 0) && in_packs<kPack>(sines, 0);
  launch(packs ? rotate<T, kPack> : rotate<T, 1>, tokens, 1, 0, stream, static_cast<int>(heads),
         static_cast<int>(head_dim), x, x_stride, positions, cosines, sines, sign, y);
}

template <class T>
void gated_activation(GateKind kind, std::int64_t rows, std::int64_t width, const T* gate, std::int64_t gate_stride,
                      const T* up, std::int64_t up_stride, T* y, void* stream) {
  constexpr int kPack = kVector<T>;
  const bool packs = in_packs<kPack>(gate, gate_stride) && in_packs<kPack>(up, up_stride) && in_packs<kPack>(y, width);
  const std::int64_t blocks = blocks_for(width, packs ? kPack : 1);
  launch(packs ? gate_rows<T, kPack> : gate_rows<T, 1>, rows * blocks, 1, 0, stream, kind, static_cast<int>(blocks),
         width, gate, gate_stride, up, up_stride, y);
}

template <class T>
void gated_activation_backward(GateKind kind, std::int64_t count, const T* gate, const T* up, const T* y_grad,
                               T* gate_grad, T* up_grad, void* stream) {
  constexpr int kPack = kVector<T>;
  const bool packs = in_packs<kPack>(gate, count) && in_packs<kPack>(up, 0) && in_packs<kPack>(y_grad, 0) &&
                     in_packs<kPack>(gate_grad, 0) && in_packs<kPack>(up_grad, 0);
  launch(packs ? gate_backward<T, kPack> : gate_backward<T, 1>, blocks_for(count, packs ? kPack : 1), 1, 0, stream,
         kind, count, gate, up, y_grad, gate_grad, up_grad);
}

template <class T>
void add_widened(std::int64_t count, const T* x, float* sum, void* stream) {
  const bool four = count % 4 == 0 && in_packs<4>(x, 0) && in_packs<4>(sum, 0);
  launch(four ? add_numbers<T, 4> : add_numbers<T, 1>, blocks_for(count, four ? 4 : 1), 1, 0, stream, count, x, sum);
}

template <class T>
void softcapped(std::int64_t count, const T* x, float cap, float* y, void* stream) {
  const bool four = count % 4 == 0 && in_packs<4>(x, 0) && in_packs<4>(y, 0);
  launch(four ? cap_numbers<T, 4> : cap_numbers<T, 1>, blocks_for(count, four ? 4 : 1), 1, 0, stream, count, x, cap, y);
}

#define SAO_INSTANTIATE(T)                                                                                             \
  template void rms_norm(std::int64_t, std::int64_t, const T*, const T*, bool, float, T*, float*, void*);              \
  template void residual_norm(std::int64_t, std::int64_t, const T*, const T*, const T*, const T*, bool, float, T*, T*, \
                              void*);                                                                                  \
  template void rms_norm_backward(std::int64_t, std::int64_t, std::int64_t, const T*, const T*, bool, const float*,    \
                                  const T*, T*, float*, void*);                                                        \
  template void rotary(std::int64_t, std::int64_t, std::int64_t, const T*, std::int64_t, const std::int64_t*,          \
                       const float*, const float*, float, T*, void*);                                                  \
  template void gated_activation(GateKind, std::int64_t, std::int64_t, const T*, std::int64_t, const T*, std::int64_t, \
                                 T*, void*);                                                                           \
  template void gated_activation_backward(GateKind, std::int64_t, const T*, const T*, const T*, T*, T*, void*);        \
  template void add_widened(std::int64_t, const T*, float*, void*);                                                    \
  template void softcapped(std::int64_t, const T*, float, float*, void*)
SAO_INSTANTIATE(float);
SAO_INSTANTIATE(BFloat16);
#undef SAO_INSTANTIATE

}  // namespace sao::ops::cuda
