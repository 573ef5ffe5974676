// SPDX-License-Identifier: Apache-2.0
// Tensor cores, and copies to shared memory that run beside the arithmetic, of sm_80 and later; for .cu files only. The
// PTX instructions are here, tests/support/cuda_emulation.h has the same functions. Fragments are as the PTX manual
// lays them out: lane l holds of A [16][16] the pairs of columns 2 (l % 4) of rows l / 4 and l / 4 + 8, then the same
// of the columns from 8 on; of B [16][8] the pairs of rows 2 (l % 4), and from 8 on, of column l / 4; of D [16][8] the
// pairs of columns 2 (l % 4) of rows l / 4 and l / 4 + 8.
#pragma once

#include "ops/cuda_device.h"

namespace sao::ops::cuda {

#ifdef __CUDACC__

__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// d += a . b, of bfloat16 in float32.
__device__ inline void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four matrices [8][8] of two-byte numbers; lanes 8 i .. 8 i + 7 name the rows of matrix i, 16 bytes each. Lane l gets
/// of each the pair of columns 2 (l % 4) of row l / 4.
__device__ inline void load_matrices(std::uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row)));
}

/// The same, each matrix transposed.
__device__ inline void load_matrices_transposed(std::uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row)));
}

/// Starts to copy kBytes (4 or 16, aligned so) to shared memory; zeros where not `inside`, nothing is read then.
template <int kBytes>
__device__ void start_copy(void* to, const void* from, bool inside) {
  const int bytes = inside ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
  }
}

/// Until this thread's copies have arrived; a barrier makes them visible to the others.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// What this thread has started since the last call of this is a group, of nothing perhaps.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Until all groups of this thread's copies but the last kGroups have arrived.
template <int kGroups>
__device__ void wait_for_copies_but() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

/// Relative error below 2^-22; denormal numbers are zero.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Relative error below 2^-23.
__device__ inline float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Both rounded to bfloat16; `low` is the first in memory.
__device__ inline std::uint32_t bfloat16_pair(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// x, with which nothing is computed ahead of here: where a loop's registers are better used than by what its steps
/// have in common.
__device__ inline unsigned computed_here(unsigned x) {
  asm volatile("" : "+r"(x));
  return x;
}

#else

inline unsigned computed_here(unsigned x) { return x; }

inline std::uint32_t bfloat16_pair(float low, float high) {
  return from_float<BFloat16>(low).bits | static_cast<std::uint32_t>(from_float<BFloat16>(high).bits) << 16;
}

#endif

/// Writes two neighbouring numbers, the first at a multiple of four bytes.
__device__ inline void store_pair(BFloat16* to, float low, float high) {
  const std::uint32_t bits = bfloat16_pair(low, high);
  Pack<BFloat16, 2> pair;
  memcpy(&pair, &bits, sizeof bits);
  store(to, pair);
}

}  // namespace sao::ops::cuda
