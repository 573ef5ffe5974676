// SPDX-License-Identifier: Apache-2.0
#include "ops/kernels.h"

namespace sao::ops {

const Kernels& kernels() {
#if defined(__x86_64__)
  static const Kernels& best = [&]() -> const Kernels& {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
      return kKernels_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kKernels_avx2;
    return kKernels_baseline;
  }();
  return best;
#else
  return kKernels_baseline;
#endif
}

}  // namespace sao::ops
