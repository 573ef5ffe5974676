// SPDX-License-Identifier: Apache-2.0
// Rows of logits to log-probabilities of given tokens, and back; one block a row.
#include "ops/cuda_device.h"

namespace sao::ops::cuda {
namespace {

// sum * exp(top), kept so that neither overflows; top is -infinity while nothing was added.
struct ExpSum {
  float top, sum;
};

__device__ ExpSum merged(ExpSum a, ExpSum b) {
  const float top = fmaxf(a.top, b.top), base = finite_base(top);
  return {top, a.sum * expf(a.top - base) + b.sum * expf(b.top - base)};
}

__device__ ExpSum merged_over_warp(ExpSum s) {
  SAO_UNROLL
  for (int offset = 16; offset > 0; offset /= 2) {
    const float top = __shfl_xor_sync(kAllLanes, s.top, offset), sum = __shfl_xor_sync(kAllLanes, s.sum, offset);
    s = merged(s, ExpSum{top, sum});
  }
  return s;
}

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    log_probs_of_rows(std::int64_t width, const T* logits, float softcap, const std::int64_t* targets, float* log_prob,
                      float* log_sum_exp) {
  __shared__ float tops[kThreads / 32];
  __shared__ float sums[kThreads / 32];
  const std::int64_t row = blockIdx.x;
  const T* z = logits + row * width;
  ExpSum s{-kInfinity, 0.0f};
  for (std::int64_t i = static_cast<std::int64_t>(threadIdx.x) * kPack; i < width; i += kThreads * kPack) {
    const Pack<T, kPack> pack = load<kPack>(z + i);
    float x[kPack], top = s.top;
    for (int e = 0; e < kPack; ++e) {
      x[e] = soft_capped(to_float(pack.value[e]), softcap);
      top = fmaxf(top, x[e]);
    }
    const float base = finite_base(top);
    float sum = s.sum * expf(s.top - base);
    for (int e = 0; e < kPack; ++e) sum += expf(x[e] - base);
    s = ExpSum{top, sum};
  }
  s = merged_over_warp(s);
  if (lane() == 0) {
    tops[warp()] = s.top;
    sums[warp()] = s.sum;
  }
  __syncthreads();
  if (warp() != 0) return;
  s = lane() < kThreads / 32 ? ExpSum{tops[lane()], sums[lane()]} : ExpSum{-kInfinity, 0.0f};
  s = merged_over_warp(s);
  if (lane() == 0) {
    const float total = s.top + logf(s.sum);
    log_sum_exp[row] = total;
    log_prob[row] = soft_capped(to_float(z[targets[row]]), softcap) - total;
  }
}

// Each thread one pack; `blocks` blocks a row.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    log_probs_backward_of_rows(std::int64_t blocks, std::int64_t width, T* logits, float softcap,
                               const std::int64_t* targets, const float* log_sum_exp, const float* grad) {
  const std::int64_t row = blockIdx.x / blocks;
  const std::int64_t i = (blockIdx.x % blocks * kThreads + threadIdx.x) * kPack;
  if (i >= width) return;
  const std::int64_t target = targets[row];
  const float total = log_sum_exp[row], g = grad[row];
  T* at = logits + row * width + i;
  Pack<T, kPack> pack = load<kPack>(at);
  for (int e = 0; e < kPack; ++e) {
    const float z = soft_capped(to_float(pack.value[e]), softcap);
    float d = ((i + e == target ? 1.0f : 0.0f) - expf(z - total)) * g;
    if (softcap > 0.0f) d *= 1.0f - (z / softcap) * (z / softcap);
    pack.value[e] = from_float<T>(d);
  }
  store<kPack>(at, pack);
}

}  // namespace

template <class T>
void log_probs(std::int64_t rows, std::int64_t width, const T* logits, float softcap, const std::int64_t* targets,
               float* log_prob, float* log_sum_exp, void* stream) {
  launch(in_packs<4>(logits, width) ? log_probs_of_rows<T, 4> : log_probs_of_rows<T, 1>, rows, 1, 0, stream, width,
         logits, softcap, targets, log_prob, log_sum_exp);
}

template <class T>
void log_probs_backward(std::int64_t rows, std::int64_t width, T* logits, float softcap, const std::int64_t* targets,
                        const float* log_sum_exp, const float* grad, void* stream) {
  const bool four = in_packs<4>(logits, width);
  const std::int64_t per_block = kThreads * (four ? 4 : 1), blocks = (width + per_block - 1) / per_block;
  launch(four ? log_probs_backward_of_rows<T, 4> : log_probs_backward_of_rows<T, 1>, rows * blocks, 1, 0, stream,
         blocks, width, logits, softcap, targets, log_sum_exp, grad);
}

#define SAO_INSTANTIATE(T)                                                                                          \
  template void log_probs(std::int64_t, std::int64_t, const T*, float, const std::int64_t*, float*, float*, void*); \
  template void log_probs_backward(std::int64_t, std::int64_t, T*, float, const std::int64_t*, const float*,        \
                                   const float*, void*)
SAO_INSTANTIATE(float);
SAO_INSTANTIATE(BFloat16);
#undef SAO_INSTANTIATE

}  // namespace sao::ops::cuda
