// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace sao {

/// For the first line of a program's main: freed pieces of up to 32 MB stay with the process, to be used again, where
/// the C library would hand them back and have every page of them cleared anew: some percent of inference's time on the
/// CPU (docs/performance.md). Nothing happens with another C library than glibc. The library never calls it: it changes
/// the whole process.
void keep_freed_memory();

/// Hands the pages of all freed pieces back to the system now, those too that keep_freed_memory keeps. A model that is
/// loaded for inference calls it as it packs its layers, whose matrices leave holes between what stays, and a run calls
/// it after each stage. Nothing happens
/// with another C library than glibc.
void release_freed_memory();

}  // namespace sao
