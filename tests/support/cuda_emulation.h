// SPDX-License-Identifier: Apache-2.0
// As much of CUDA as libsao's kernels use, on the CPU, so that their sources are tested where there is no GPU: include
// this, then the .cu files. A block's threads are fibers of one operating-system thread; they take turns at barriers
// and warp exchanges, in ascending or descending order, and shared memory is full of NaNs when a block starts: most
// barriers that are missing, and memory that is read before it is written, show up as wrong results. So does memory
// that a copy is still on its way to: NaNs when the copy starts, the data when its thread waits for it.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
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
#define __host__
#define __shared__ thread_local
#define __launch_bounds__(...)

namespace sao::ops::cuda {

using std::max;
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
/// Eight lanes that read 16 bytes each of shared memory, not all from different banks.
inline std::size_t bank_conflicts = 0;

enum class State { kRunning, kAtWarp, kAtBlock, kDone };

constexpr std::size_t kWords = 6;  // that a lane can give to the others at once
using Words = std::array<std::uint32_t, kWords>;

struct Copy {
  void* to;
  const void* from;  // null: zeros
  std::size_t bytes;
};

struct Fiber {
  ucontext_t start;  // for the first switch; the others are jumps, which need no system call
  void* resume[5];
  bool started = false;
  std::unique_ptr<std::byte[]> stack;
  State state = State::kRunning;
  Words exchanged[2] = {};  // in turn, so that one barrier an exchange does
  bool turn = false;
  std::vector<Copy> copies;         // that have started
  std::vector<std::size_t> groups;  // the copies that each has, and those before it
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

namespace emulation {

inline std::size_t lane() { return block->current % 32; }

/// Gives words to the other lanes of the warp; the result has each lane's at the index of that lane.
class Exchange {
 public:
  explicit Exchange(const Words& words) {
    Fiber& self = block->fibers[block->current];
    turn_ = self.turn = !self.turn;
    self.exchanged[turn_] = words;
    __syncwarp();
    first_ = &block->fibers[block->current / 32 * 32];
  }
  const Words& operator[](std::size_t lane) const { return first_[lane].exchanged[turn_]; }

 private:
  bool turn_;
  const Fiber* first_;
};

inline std::uint32_t word_of(float x) {
  std::uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  return word;
}

inline float float_of(std::uint32_t word) {
  float x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

// Bytes from the start of shared memory, which all `size` of them lie in.
inline std::size_t shared_offset(const void* p, std::size_t size) {
  const std::size_t offset = reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(dynamic_shared);
  if (offset > sizeof dynamic_shared - size || offset % size != 0) stop("not an aligned address of shared memory");
  return offset;
}

// The number of two bytes at this row and column of matrix i, of those whose rows the lanes named.
inline std::uint32_t matrix_element(const Exchange& rows, std::size_t i, std::size_t row, std::size_t column) {
  std::uint16_t element;
  std::memcpy(&element, reinterpret_cast<const std::byte*>(dynamic_shared) + rows[8 * i + row][0] + 2 * column,
              sizeof element);
  return element;
}

inline void load_matrices(std::uint32_t (&to)[4], const void* row, bool transposed) {
  const Exchange rows({static_cast<std::uint32_t>(shared_offset(row, 16))});
  if (lane() < 4) {
    unsigned banks = 0;
    for (std::size_t r = 0; r < 8; ++r) banks |= 1u << (rows[8 * lane() + r][0] / 16 % 8);
    if (banks != 0xffu) ++bank_conflicts;
  }
  for (std::size_t i = 0; i < 4; ++i) {
    to[i] = 0;
    for (std::size_t e = 0; e < 2; ++e) {
      const std::size_t a = lane() / 4, b = lane() % 4 * 2 + e;
      to[i] |= (transposed ? matrix_element(rows, i, b, a) : matrix_element(rows, i, a, b)) << (16 * e);
    }
  }
}

}  // namespace emulation

inline float __shfl_sync(unsigned mask, float value, int from) {
  if (mask != 0xffffffffu || from < 0 || from > 31) emulation::stop("a shuffle of part of a warp");
  return emulation::float_of(emulation::Exchange({emulation::word_of(value)})[static_cast<std::size_t>(from)][0]);
}

inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }

template <class T>
T atomicAdd(T* to, T x) {  // the fibers take turns
  const T before = *to;
  *to += x;
  return before;
}

inline float __shfl_xor_sync(unsigned mask, float value, int with) {
  return __shfl_sync(mask, value, static_cast<int>(emulation::lane()) ^ with);
}

// What cuda_mma.h has for nvcc.

inline void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const emulation::Exchange lanes({a[0], a[1], a[2], a[3], b0, b1});
  const std::size_t row = emulation::lane() / 4, column = emulation::lane() % 4 * 2;
  for (std::size_t k = 0; k < 16; ++k) {
    const std::size_t part = k / 8, holder = k % 8 / 2;
    const auto number = [&](std::size_t lane, std::size_t word) {
      return emulation::float_of(k % 2 == 0 ? lanes[lane][word] << 16 : lanes[lane][word] & 0xffff0000u);
    };
    const float upper = number(4 * row + holder, 2 * part), lower = number(4 * row + holder, 2 * part + 1);
    const float left = number(4 * column + holder, 4 + part), right = number(4 * (column + 1) + holder, 4 + part);
    d[0] += upper * left;
    d[1] += upper * right;
    d[2] += lower * left;
    d[3] += lower * right;
  }
}

inline void load_matrices(std::uint32_t (&to)[4], const void* row) { emulation::load_matrices(to, row, false); }
inline void load_matrices_transposed(std::uint32_t (&to)[4], const void* row) {
  emulation::load_matrices(to, row, true);
}

template <int kBytes>
void start_copy(void* to, const void* from, bool inside) {
  static_assert(kBytes == 4 || kBytes == 16);
  emulation::shared_offset(to, kBytes);
  if (reinterpret_cast<std::uintptr_t>(from) % kBytes != 0) emulation::stop("a copy from an unaligned address");
  std::memset(to, 0xff, kBytes);
  emulation::block->fibers[emulation::block->current].copies.push_back({to, inside ? from : nullptr, kBytes});
}

namespace emulation {

inline void finish_copies(Fiber& fiber, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const Copy& copy = fiber.copies[i];
    if (copy.from == nullptr) {
      std::memset(copy.to, 0, copy.bytes);
    } else {
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
  }
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace emulation

inline void wait_for_copies() {
  emulation::Fiber& fiber = emulation::block->fibers[emulation::block->current];
  emulation::finish_copies(fiber, fiber.copies.size());
  fiber.groups.clear();
}

inline void commit_copies() {
  emulation::Fiber& fiber = emulation::block->fibers[emulation::block->current];
  fiber.groups.push_back(fiber.copies.size());
}

template <int kGroups>
void wait_for_copies_but() {
  emulation::Fiber& fiber = emulation::block->fibers[emulation::block->current];
  while (fiber.groups.size() > kGroups) {
    const std::size_t count = fiber.groups.front();
    emulation::finish_copies(fiber, count);
    fiber.groups.erase(fiber.groups.begin());
    for (std::size_t& group : fiber.groups) group -= count;
  }
}

inline float fast_exp2(float x) { return std::exp2(x); }
inline float fast_reciprocal(float x) { return 1.0f / x; }

namespace emulation {

// Runs the block to its end. A warp runs until its threads wait for the block or are done, then the next: far apart, so
// that a barrier between them that is missing is missed.
inline void run_block(Block& b) {
  const std::size_t threads = b.fibers.size();
  block = &b;
  for (Fiber& fiber : b.fibers) {
    fiber.state = State::kRunning;
    fiber.turn = false;
    fiber.groups.clear();
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
    if (!fiber.copies.empty()) stop("a copy that nothing waits for");
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
