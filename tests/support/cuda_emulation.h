// SPDX-License-Identifier: Apache-2.0
// As much of CUDA as libsao's kernels use, on the CPU, so that their sources are tested where there is no GPU: include
// this, then the .cu files. A block's threads are fibers of one operating-system thread; they take turns at barriers
// and warp exchanges, in ascending or descending order, and shared memory is full of NaNs when a block starts: most
// barriers that are missing, and memory that is read before it is written, show up as wrong results.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

// For functions whose calls must look like calls of unknown functions, which may change any register.
#ifdef __clang__
#define SAO_OPAQUE [[gnu::noinline]]
#else
#define SAO_OPAQUE [[gnu::noipa]]
#endif

#define __global__
#define __device__
#define __shared__ thread_local
#define __launch_bounds__(threads)

namespace sao::ops::cuda {

using std::min;

struct dim3 {
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  unsigned x, y, z;
};

struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

using cudaStream_t = void*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };

namespace emulation {

inline constexpr std::size_t kSharedBytes = 99 << 10;  // the smallest limit of the architectures that are built for
inline constexpr std::size_t kMarginBytes = 1 << 10;
inline constexpr std::size_t kStackBytes = 32 << 10;

/// Which thread of a block runs first between two barriers.
inline bool descending = false;
inline std::size_t launches = 0;

enum class State { kRunning, kAtWarp, kAtBlock, kDone };

struct Fiber {
  ucontext_t start;  // for the first switch; the others are jumps, which need no system call
  void* resume[5];
  bool started = false;
  std::unique_ptr<std::byte[]> stack;
  State state = State::kRunning;
  float exchanged[2] = {};  // in turn, so that one barrier a shuffle does
  bool turn = false;
};

struct Block {
  std::vector<Fiber> fibers;
  void* scheduler[5];
  std::size_t current = 0;
  std::function<void()> body;
};

inline Block* block = nullptr;

// The two sides of a switch.
SAO_OPAQUE inline void jump(void** to) { __builtin_longjmp(to, 1); }

SAO_OPAQUE inline void wait(State state) {
  Fiber& fiber = block->fibers[block->current];
  fiber.state = state;
  if (__builtin_setjmp(fiber.resume) == 0) jump(block->scheduler);
}

SAO_OPAQUE inline void run(Fiber& fiber) {
  if (__builtin_setjmp(block->scheduler) != 0) return;
  if (fiber.started) jump(fiber.resume);
  fiber.started = true;
  setcontext(&fiber.start);
}

inline void enter() {
  block->body();
  block->fibers[block->current].state = State::kDone;
  jump(block->scheduler);
}

[[noreturn]] inline void stop(const char* problem) {
  std::fprintf(stderr, "CUDA emulation: %s\n", problem);
  std::abort();
}

}  // namespace emulation

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
alignas(16) inline thread_local float4
    dynamic_shared[(emulation::kSharedBytes + emulation::kMarginBytes) / sizeof(float4)];

inline void __syncthreads() { emulation::wait(emulation::State::kAtBlock); }
inline void __syncwarp() { emulation::wait(emulation::State::kAtWarp); }

inline float __shfl_sync(unsigned mask, float value, int from) {
  if (mask != 0xffffffffu || from < 0 || from > 31) emulation::stop("a shuffle of part of a warp");
  emulation::Block& block = *emulation::block;
  const std::size_t self = block.current;
  const bool turn = block.fibers[self].turn = !block.fibers[self].turn;
  block.fibers[self].exchanged[turn] = value;
  __syncwarp();
  return block.fibers[self / 32 * 32 + static_cast<std::size_t>(from)].exchanged[turn];
}

inline float __shfl_xor_sync(unsigned mask, float value, int with) {
  return __shfl_sync(mask, value, static_cast<int>(emulation::block->current % 32) ^ with);
}

namespace emulation {

// Runs the block to its end. A warp runs until its threads wait for the block or are done, then the next: far apart, so
// that a barrier between them that is missing is missed.
inline void run_block(Block& b) {
  const std::size_t threads = b.fibers.size();
  block = &b;
  for (Fiber& fiber : b.fibers) {
    fiber.state = State::kRunning;
    fiber.turn = false;
    fiber.started = false;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStackBytes;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
  }
  // Whether the threads that are not done are in this state, and lets them go on if there are any.
  const auto release = [&](std::size_t begin, std::size_t end, State state) {
    bool any = false;
    for (std::size_t i = begin; i < end; ++i) {
      if (b.fibers[i].state != state && b.fibers[i].state != State::kDone) return false;
      any = any || b.fibers[i].state == state;
    }
    for (std::size_t i = begin; i < end; ++i) {
      if (b.fibers[i].state == state) b.fibers[i].state = State::kRunning;
    }
    return any;
  };
  do {
    for (std::size_t w = 0; w < threads; w += 32) {
      const std::size_t warp = descending ? threads - 32 - w : w;
      do {
        for (std::size_t i = 0; i < 32; ++i) {
          b.current = warp + (descending ? 31 - i : i);
          threadIdx = dim3(static_cast<unsigned>(b.current));
          if (b.fibers[b.current].state == State::kRunning) run(b.fibers[b.current]);
        }
      } while (release(warp, warp + 32, State::kAtWarp));
    }
  } while (release(0, threads, State::kAtBlock));
  for (const Fiber& fiber : b.fibers) {
    if (fiber.state != State::kDone) stop("threads wait at different barriers");
  }
}

}  // namespace emulation

inline int cudaFuncSetAttribute(const void*, int, int) { return 0; }

template <class... Parameters, class... Arguments>
int cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (config->blockDim.x % 32 != 0) emulation::stop("a block that is not a number of whole warps");
  if (config->dynamicSmemBytes > emulation::kSharedBytes) emulation::stop("more shared memory than every GPU has");
  const std::size_t asked = config->dynamicSmemBytes / sizeof(float);
  constexpr std::size_t kMargin = emulation::kMarginBytes / sizeof(float);
  ++emulation::launches;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  emulation::Block block;
  block.fibers.resize(config->blockDim.x);
  for (emulation::Fiber& fiber : block.fibers) fiber.stack.reset(new std::byte[emulation::kStackBytes]);
  block.body = [&] { kernel(static_cast<Parameters>(arguments)...); };
  for (unsigned y = 0; y < config->gridDim.y; ++y) {
    for (unsigned x = 0; x < config->gridDim.x; ++x) {
      blockIdx = dim3(x, y);
      float* shared = reinterpret_cast<float*>(dynamic_shared);
      std::fill_n(shared, asked + kMargin, std::numeric_limits<float>::quiet_NaN());
      emulation::run_block(block);
      const bool past = std::any_of(shared + asked, shared + asked + kMargin, [](float f) { return !std::isnan(f); });
      if (past) emulation::stop("a write past the end of shared memory");
    }
  }
  return 0;
}

}  // namespace sao::ops::cuda
