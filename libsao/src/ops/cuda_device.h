// SPDX-License-Identifier: Apache-2.0
// What the kernels share; for .cu files only, which nvcc gives the CUDA runtime. Everything used of CUDA here and in
// the kernels is also in tests/support/cuda_emulation.h, so that the same sources run on a machine without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ops/cuda_kernels.h"

// Before a loop over registers. Only nvcc has the pragma, the host compiler would warn.
#ifdef __CUDACC__
#define SAO_PRAGMA(text) _Pragma(#text)
#else
#define SAO_PRAGMA(text)
#endif
#define SAO_UNROLL SAO_PRAGMA(unroll)
#define SAO_UNROLL_BY(n) SAO_PRAGMA(unroll n)

namespace sao::ops::cuda {

constexpr int kThreads = 256;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kInfinity = __builtin_huge_valf();

extern __shared__ float4 dynamic_shared[];

template <int kBlockThreads = kThreads, class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t blocks_x, std::int64_t blocks_y, std::size_t shared_bytes,
            void* stream, const Arguments&... arguments) {
  if (blocks_x == 0 || blocks_y == 0) return;
  constexpr std::size_t kWithoutAsking = 48 << 10;
  if (shared_bytes > kWithoutAsking) {
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(shared_bytes));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y), 1);
  config.blockDim = dim3(kBlockThreads, 1, 1);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchKernelEx(&config, kernel, arguments...);
}

__device__ inline std::uint32_t float_bits(float x) {
  std::uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

__device__ inline float float_of_bits(std::uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(BFloat16 x) { return float_of_bits(static_cast<std::uint32_t>(x.bits) << 16); }

template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
// To nearest, ties to even; a NaN stays one.
template <>
__device__ inline BFloat16 from_float<BFloat16>(float x) {
  const std::uint32_t bits = float_bits(x);
  if (x != x) return BFloat16{static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return BFloat16{static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

/// x as T would hold it: where the twin rounds between two operations.
template <class T>
__device__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

/// kPack numbers that are read and written together.
template <class T, int kPack>
struct alignas(sizeof(T) * kPack) Pack {
  T value[kPack];
};

template <int kPack, class T>
__device__ Pack<T, kPack> load(const T* from) {
  return *reinterpret_cast<const Pack<T, kPack>*>(from);
}

template <int kPack, class T>
__device__ void store(T* to, const Pack<T, kPack>& pack) {
  *reinterpret_cast<Pack<T, kPack>*>(to) = pack;
}

/// Numbers in 16 bytes, the most that a thread reads or writes at one time.
template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

/// True where packs of kPack can be read at p and at every multiple of `stride` after it.
template <int kPack, class T>
bool in_packs(const T* p, std::int64_t stride) {
  return reinterpret_cast<std::uintptr_t>(p) % (kPack * sizeof(T)) == 0 && stride % kPack == 0;
}

/// kPack numbers of each half of a head, turned by an angle each and rounded where the twin rounds.
template <class T, int kPack>
struct Halves {
  Pack<T, kPack> low, high;
};
template <int kPack, class T>
__device__ Halves<T, kPack> turned(const T* from, int half, const float* cosines, const float* sines, float sign) {
  const Pack<T, kPack> a = load<kPack>(from), b = load<kPack>(from + half);
  const Pack<float, kPack> c = load<kPack>(cosines), s = load<kPack>(sines);
  Halves<T, kPack> out;
  SAO_UNROLL
  for (int e = 0; e < kPack; ++e) {
    const float x = to_float(a.value[e]), y = to_float(b.value[e]);
    const float cosine = rounded<T>(c.value[e]), sine = sign * rounded<T>(s.value[e]);
    out.low.value[e] = from_float<T>(rounded<T>(x * cosine) - rounded<T>(y * sine));
    out.high.value[e] = from_float<T>(rounded<T>(y * cosine) + rounded<T>(x * sine));
  }
  return out;
}

__device__ inline int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp() { return static_cast<int>(threadIdx.x) / 32; }

/// Sum and maximum over `kLanes` neighbouring lanes, the same in all of them.
template <int kLanes>
__device__ float sum_over(float x) {
  SAO_UNROLL
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

template <int kLanes>
__device__ float maximum_over(float x) {
  SAO_UNROLL
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

/// Sum over the block, the same in all its threads.
__device__ inline float block_sum(float x) {
  __shared__ float parts[kThreads / 32];
  x = sum_over<32>(x);
  if (lane() == 0) parts[warp()] = x;
  __syncthreads();
  x = sum_over<32>(lane() < kThreads / 32 ? parts[lane()] : 0.0f);
  __syncthreads();  // the parts may be written again
  return x;
}

/// What weights are taken relative to: the highest score, unless none is above -infinity.
__device__ inline float finite_base(float highest) { return highest == -kInfinity ? 0.0f : highest; }

/// cap * tanh(x / cap); cap 0: x.
__device__ inline float soft_capped(float x, float cap) { return cap > 0.0f ? cap * tanhf(x / cap) : x; }

}  // namespace sao::ops::cuda
