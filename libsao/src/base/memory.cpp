// SPDX-License-Identifier: Apache-2.0
#include "sao/base/memory.h"

#include <cstdlib>  // which says whether the C library is glibc

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace sao {

void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_MAX, 0);         // large pieces come from the heap too,
  mallopt(M_TRIM_THRESHOLD, -1);  // whose end is not handed back
#endif
}

}  // namespace sao
