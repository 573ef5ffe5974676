// SPDX-License-Identifier: Apache-2.0
#include "sao/base/memory.h"

#include <cstdlib>  // which says whether the C library is glibc

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace sao {

void keep_freed_memory() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most there is: larger pieces go back, or they would leave holes
  mallopt(M_TRIM_THRESHOLD, -1);        // the heap's end is not handed back
#endif
}

void release_freed_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace sao
