// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set (SAO_ISA). No standard library here: an inline function of it that the
// compiler does not inline would be shared with code for older machines.
#include "ops/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>  // its functions are always inlined
#endif

#if defined(__AVX512F__)
#define SAO_WIDTH 16
#elif defined(__AVX2__)
#define SAO_WIDTH 8
#else
#define SAO_WIDTH 4
#endif

namespace sao::ops {
namespace {

constexpr std::int64_t W = SAO_WIDTH;
using Vec = float __attribute__((vector_size(SAO_WIDTH * 4)));
using VecU = float __attribute__((vector_size(SAO_WIDTH * 4), aligned(4), may_alias));
using Int = std::int32_t __attribute__((vector_size(SAO_WIDTH * 4)));

inline Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<VecU*>(p) = v; }
inline Vec splat(float x) { return x - Vec{}; }  // not 0 + x, which is an addition: -0 becomes 0

// The first `count` lanes; the others are 0.
inline Vec load_part(const float* p, std::int64_t count) {
  Vec v{};
  for (std::int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
inline void store_part(float* p, Vec v, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) p[i] = v[i];
}
inline Vec load_up_to(const float* p, std::int64_t count) { return count >= W ? load(p) : load_part(p, count); }
inline void store_up_to(float* p, Vec v, std::int64_t count) {
  if (count >= W) {
    store(p, v);
  } else {
    store_part(p, v, count);
  }
}

inline float sum_lanes(Vec v) {
  float lanes[W];
  store(lanes, v);
  for (std::int64_t step = W / 2; step > 0; step /= 2) {
    for (std::int64_t i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  }
  return lanes[0];
}
inline float max_lanes(Vec v) {
  float best = v[0];
  for (std::int64_t i = 1; i < W; ++i) best = v[i] > best ? v[i] : best;
  return best;
}
inline Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
inline Vec vmin(Vec a, Vec b) { return a < b ? a : b; }

// exp by range reduction to |r| <= ln2 / 2 and a degree-6 polynomial (Cephes expf); below 1 ulp of error or so.
// Arguments below -87.3 give 0, so that masked scores vanish exactly.
inline Vec vexp(Vec x) {
  const Vec low = splat(-87.3f);
  const Int underflow = x < low;
  x = vmin(splat(88.0f), vmax(low, x));  // in this order a NaN passes through
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Vec shifted = x * 1.44269504088896341f + magic;
  const Vec n = shifted - magic;
  Vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Int exponent = (reinterpret_cast<Int>(shifted) - 0x4B400000 + 127) << 23;
  const Vec result = p * reinterpret_cast<Vec>(exponent);
  return underflow ? Vec{} : result;
}

// tanh as x P(x^2) / Q(x^2), fitted to the least relative error on |x| <= 9.01, where float32 has reached 1: 2e-8 of
// the fraction itself, 5 units in the last place at most with its roundings (near 8; 0.6 in the mean).
inline Vec vtanh(Vec x) {
  x = vmin(splat(9.01f), vmax(splat(-9.01f), x));  // in this order a NaN passes through
  const Vec z = x * x;
  Vec p = splat(1.33368271e-8f);
  p = p * z + 2.05962583e-5f;
  p = p * z + 3.49481010e-3f;
  p = p * z + 1.33803708e-1f;
  p = p * z + 0.99999998f;
  Vec q = splat(7.76927427e-7f);
  q = q * z + 3.28436167e-4f;
  q = q * z + 2.58740231e-2f;
  q = q * z + 4.67136862e-1f;
  q = q * z + 1.0f;
  return vmin(splat(1.0f), vmax(splat(-1.0f), x * p / q));
}

inline float log_of(float x) { return __builtin_logf(x); }

void rms_norm(std::int64_t rows, std::int64_t width, const float* x, const float* weight, float offset, float eps,
              float* y, float* inverse_rms) {
  for (std::int64_t r = 0; r < rows; ++r, x += width, y += width) {
    Vec squares{};
    for (std::int64_t i = 0; i < width; i += W) {
      const Vec v = load_up_to(x + i, width - i);
      squares += v * v;
    }
    const float inverse = 1.0f / __builtin_sqrtf(sum_lanes(squares) / static_cast<float>(width) + eps);
    if (inverse_rms != nullptr) inverse_rms[r] = inverse;
    for (std::int64_t i = 0; i < width; i += W) {
      const Vec v = load_up_to(x + i, width - i) * inverse * (load_up_to(weight + i, width - i) + offset);
      store_up_to(y + i, v, width - i);
    }
  }
}

void residual_norm(std::int64_t rows, std::int64_t width, const float* h, const float* update,
                   const float* update_weight, const float* weight, float offset, float eps, float* sum, float* y) {
  for (std::int64_t r = 0; r < rows; ++r, h += width, update += width, sum += width) {
    const float* added = update;
    if (update_weight != nullptr) {
      rms_norm(1, width, update, update_weight, offset, eps, sum, nullptr);
      added = sum;
    }
    for (std::int64_t i = 0; i < width; i += W) {
      store_up_to(sum + i, load_up_to(h + i, width - i) + load_up_to(added + i, width - i), width - i);
    }
    if (weight != nullptr) rms_norm(1, width, sum, weight, offset, eps, y + r * width, nullptr);
  }
}

void rms_norm_backward(std::int64_t rows, std::int64_t width, const float* x, const float* weight, float offset,
                       const float* inverse_rms, const float* y_grad, float* x_grad, float* weight_grad) {
  for (std::int64_t r = 0; r < rows; ++r, x += width, y_grad += width, x_grad += width) {
    const float inverse = inverse_rms[r];
    Vec dots{};
    for (std::int64_t i = 0; i < width; i += W) {
      const std::int64_t left = width - i;
      const Vec xv = load_up_to(x + i, left);
      const Vec g = load_up_to(y_grad + i, left);
      const Vec normalised = xv * inverse;
      store_up_to(weight_grad + i, load_up_to(weight_grad + i, left) + g * normalised, left);
      dots += g * (load_up_to(weight + i, left) + offset) * normalised;
    }
    const float mean_dot = sum_lanes(dots) / static_cast<float>(width);
    for (std::int64_t i = 0; i < width; i += W) {
      const std::int64_t left = width - i;
      const Vec g = load_up_to(y_grad + i, left) * (load_up_to(weight + i, left) + offset);
      store_up_to(x_grad + i, (g - load_up_to(x + i, left) * inverse * mean_dot) * inverse, left);
    }
  }
}

void rotary(std::int64_t rows, std::int64_t heads, std::int64_t head_dim, const float* x, std::int64_t x_stride,
            const std::int64_t* positions, const float* cosines, const float* sines, float sign, float* y,
            std::int64_t y_stride) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* cosine = cosines + positions[r] * half;
    const float* sine = sines + positions[r] * half;
    for (std::int64_t h = 0; h < heads; ++h) {
      const float* a = x + r * x_stride + h * head_dim;
      const float* b = a + half;
      float* out_a = y + r * y_stride + h * head_dim;
      float* out_b = out_a + half;
      for (std::int64_t i = 0; i < half; i += W) {
        const std::int64_t left = half - i;
        const Vec c = load_up_to(cosine + i, left);
        const Vec s = load_up_to(sine + i, left) * sign;
        const Vec va = load_up_to(a + i, left);
        const Vec vb = load_up_to(b + i, left);
        store_up_to(out_a + i, va * c - vb * s, left);
        store_up_to(out_b + i, vb * c + va * s, left);
      }
    }
  }
}

constexpr float kGeluInner = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

template <GateKind kKind>
inline Vec activation(Vec g) {
  if constexpr (kKind == GateKind::kGeluTanh) {
    return 0.5f * g * (1.0f + vtanh(kGeluInner * (g + kGeluCubic * g * g * g)));
  } else {
    return g / (1.0f + vexp(-g));
  }
}

template <GateKind kKind>
inline Vec activation_slope(Vec g) {
  if constexpr (kKind == GateKind::kGeluTanh) {
    const Vec t = vtanh(kGeluInner * (g + kGeluCubic * g * g * g));
    const Vec inner_slope = kGeluInner * (1.0f + 3.0f * kGeluCubic * g * g);
    return 0.5f * (1.0f + t) + 0.5f * g * (1.0f - t * t) * inner_slope;
  } else {
    const Vec s = 1.0f / (1.0f + vexp(-g));
    return s * (1.0f + g * (1.0f - s));
  }
}

template <GateKind kKind>
void gate_rows(std::int64_t rows, std::int64_t width, const float* gate, const float* up, std::int64_t stride,
               float* y) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < width; i += W) {
      const std::int64_t left = width - i;
      const Vec value =
          activation<kKind>(load_up_to(gate + r * stride + i, left)) * load_up_to(up + r * stride + i, left);
      store_up_to(y + r * width + i, value, left);
    }
  }
}

void gate(GateKind kind, std::int64_t rows, std::int64_t width, const float* gate_values, const float* up,
          std::int64_t stride, float* y) {
  if (kind == GateKind::kGeluTanh) {
    gate_rows<GateKind::kGeluTanh>(rows, width, gate_values, up, stride, y);
  } else {
    gate_rows<GateKind::kSilu>(rows, width, gate_values, up, stride, y);
  }
}

template <GateKind kKind>
void gate_backward_flat(std::int64_t count, const float* gate, const float* up, const float* y_grad, float* gate_grad,
                        float* up_grad) {
  for (std::int64_t i = 0; i < count; i += W) {
    const std::int64_t left = count - i;
    const Vec g = load_up_to(gate + i, left);
    const Vec u = load_up_to(up + i, left);
    const Vec dy = load_up_to(y_grad + i, left);
    store_up_to(up_grad + i, dy * activation<kKind>(g), left);
    store_up_to(gate_grad + i, dy * u * activation_slope<kKind>(g), left);
  }
}

void gate_backward(GateKind kind, std::int64_t count, const float* gate_values, const float* up, const float* y_grad,
                   float* gate_grad, float* up_grad) {
  if (kind == GateKind::kGeluTanh) {
    gate_backward_flat<GateKind::kGeluTanh>(count, gate_values, up, y_grad, gate_grad, up_grad);
  } else {
    gate_backward_flat<GateKind::kSilu>(count, gate_values, up, y_grad, gate_grad, up_grad);
  }
}

constexpr std::int64_t kPanel = 2 * W;
#if SAO_WIDTH == 16
constexpr std::int64_t kTileRows = 12;
#elif SAO_WIDTH == 8
constexpr std::int64_t kTileRows = 6;
#else
constexpr std::int64_t kTileRows = 4;
#endif
constexpr std::int64_t kDepth = 640;  // k at a time

// Rows at a time, so that their slices stay in the second-level cache.
constexpr std::int64_t kRowBlock = 16 * kTileRows;

using Four = float __attribute__((vector_size(16)));
using FourU = float __attribute__((vector_size(16), aligned(4), may_alias));

// Rows of x as a tile reads them: out[j * kRows + r]. Squares of four by four, then what is left.
template <std::int64_t kRows>
void pack_rows(std::int64_t depth, const float* x, std::int64_t x_stride, float* out) {
  constexpr std::int64_t kFours = kRows / 4 * 4;
  std::int64_t j = 0;
  for (; kFours > 0 && j + 4 <= depth; j += 4) {
    for (std::int64_t r = 0; r < kFours; r += 4) {
      Four row[4];
      for (std::int64_t i = 0; i < 4; ++i) row[i] = *reinterpret_cast<const FourU*>(x + (r + i) * x_stride + j);
      const Four a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
      const Four b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
      const Four c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
      const Four d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
      const auto to = [&](std::int64_t i) { return reinterpret_cast<FourU*>(out + (j + i) * kRows + r); };
      *to(0) = __builtin_shufflevector(a, b, 0, 1, 4, 5);
      *to(1) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
      *to(2) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
      *to(3) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
    }
    for (std::int64_t r = kFours; r < kRows; ++r) {
      for (std::int64_t i = j; i < j + 4; ++i) out[i * kRows + r] = x[r * x_stride + i];
    }
  }
  for (; j < depth; ++j) {
    for (std::int64_t r = 0; r < kRows; ++r) out[j * kRows + r] = x[r * x_stride + j];
  }
}

// Columns of x as a tile reads them: out[j * kRows + r] is element j of column r, `stride` behind element j - 1.
template <std::int64_t kRows>
void pack_columns(std::int64_t depth, const float* x, std::int64_t stride, float* out) {
  for (std::int64_t j = 0; j < depth; ++j) {
    for (std::int64_t r = 0; r < kRows; ++r) out[j * kRows + r] = x[j * stride + r];
  }
}

void pack(std::int64_t n, std::int64_t k, const float* weight, std::int64_t row_stride, std::int64_t column_stride,
          float* packed) {
  for (std::int64_t first = 0; first < n; first += kPanel, weight += kPanel * row_stride, packed += k * kPanel) {
    if (n - first >= kPanel && column_stride == 1) {
      pack_rows<kPanel>(k, weight, row_stride, packed);
    } else if (n - first >= kPanel && row_stride == 1) {
      pack_columns<kPanel>(k, weight, column_stride, packed);
    } else {
      for (std::int64_t j = 0; j < k; ++j) {
        for (std::int64_t c = 0; c < kPanel; ++c) {
          packed[j * kPanel + c] = first + c < n ? weight[c * row_stride + j * column_stride] : 0.0f;
        }
      }
    }
  }
}

// Memory that will be read next, and how much of it to ask for with each of a tile's steps.
struct Ahead {
  const char* from;
  std::int64_t bytes_a_step;
};

// A tile's sums into y, or added to it.
template <std::int64_t kRows>
inline void store_tile(const Vec (&acc)[kRows][2], bool add, float* y, std::int64_t y_stride, std::int64_t columns) {
  for (std::int64_t r = 0; r < kRows; ++r, y += y_stride) {
    store_up_to(y, add ? load_up_to(y, columns) + acc[r][0] : acc[r][0], columns);
    if (columns <= W) continue;
    store_up_to(y + W, add ? load_up_to(y + W, columns - W) + acc[r][1] : acc[r][1], columns - W);
  }
}

// y = x . panel, or y + x . panel where `add`; x as pack_rows and pack_columns leave it.
template <std::int64_t kRows>
inline void gemm_tile(std::int64_t depth, const float* x, const float* panel, Ahead ahead, bool add, float* y,
                      std::int64_t y_stride, std::int64_t columns) {
  Vec acc[kRows][2] = {};
  for (std::int64_t j = 0; j < depth; ++j) {
    const char* next = ahead.from + j * ahead.bytes_a_step;
    __builtin_prefetch(next, 0, 2);
    if constexpr (kRows == 1) __builtin_prefetch(next + 64, 0, 2);  // its steps read up to two lines each
    const Vec b0 = load(panel + j * kPanel);
    const Vec b1 = load(panel + j * kPanel + W);
    for (std::int64_t r = 0; r < kRows; ++r) {
      const Vec a = splat(x[j * kRows + r]);
      acc[r][0] += a * b0;
      acc[r][1] += a * b1;
    }
  }
  store_tile<kRows>(acc, add, y, y_stride, columns);
}

// What a tile of so many rows is packed and multiplied by.
struct Tile {
  void (*pack_rows)(std::int64_t, const float*, std::int64_t, float*);
  void (*pack_columns)(std::int64_t, const float*, std::int64_t, float*);
  void (*multiply)(std::int64_t, const float*, const float*, Ahead, bool, float*, std::int64_t, std::int64_t);
};
template <std::int64_t kRows>
constexpr Tile kTile = {pack_rows<kRows>, pack_columns<kRows>, gemm_tile<kRows>};
constexpr Tile kTiles[] = {
    kTile<1>, kTile<2>, kTile<3>, kTile<4>,
#if SAO_WIDTH >= 8
    kTile<5>, kTile<6>,
#endif
#if SAO_WIDTH == 16
    kTile<7>, kTile<8>, kTile<9>, kTile<10>, kTile<11>, kTile<12>,
#endif
};

// All rows of a block by one panel's slice. `next`: `next_bytes` that are read after it; the tiles ask for a part each,
// so that the memory works while they compute.
inline void gemm_panel(std::int64_t rows, std::int64_t depth, const float* x, const float* panel, const void* next,
                       std::int64_t next_bytes, bool add, float* y, std::int64_t y_stride, std::int64_t columns) {
  constexpr std::int64_t kAsking = 8;  // tiles at most
  const std::int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const std::int64_t asking = tiles < kAsking ? tiles : kAsking, share = next_bytes / asking;
  for (std::int64_t tile = 0, row = 0; row < rows; ++tile, row += kTileRows) {
    const std::int64_t count = rows - row < kTileRows ? rows - row : kTileRows;
    const Ahead ahead = {static_cast<const char*>(next) + (tile < asking ? tile * share : 0),
                         tile < asking ? share / depth : 0};
    kTiles[count - 1].multiply(depth, x + row * depth, panel, ahead, add, y + row * y_stride, y_stride, columns);
  }
}

// Calls slice(first row, rows, first k, depth) for every block of rows and slice of k, after packing it.
template <class Slice>
inline void for_each_slice(std::int64_t m, std::int64_t k, const float* x, std::int64_t x_row_stride,
                           std::int64_t x_column_stride, float* scratch, const Slice& slice) {
  for (std::int64_t row = 0; row < m; row += kRowBlock) {
    const std::int64_t rows = m - row < kRowBlock ? m - row : kRowBlock;
    for (std::int64_t start = 0; start < k; start += kDepth) {
      const std::int64_t depth = k - start < kDepth ? k - start : kDepth;
      const float* from = x + row * x_row_stride + start * x_column_stride;
      // Columns of all whole tiles at once: what lies together is read together.
      const std::int64_t done = x_column_stride == 1 ? 0 : rows / kTileRows * kTileRows;
      constexpr std::int64_t kTogether = 8;
      for (std::int64_t j = 0; j < depth && done > 0; j += kTogether) {
        const std::int64_t some = depth - j < kTogether ? depth - j : kTogether;
        for (std::int64_t r = 0; r < done; r += kTileRows) {
          kTiles[kTileRows - 1].pack_columns(some, from + j * x_column_stride + r, x_column_stride,
                                             scratch + r * depth + j * kTileRows);
        }
      }
      for (std::int64_t r = done; r < rows; r += kTileRows) {
        const std::int64_t count = rows - r < kTileRows ? rows - r : kTileRows;
        if (x_column_stride == 1) {
          kTiles[count - 1].pack_rows(depth, from + r * x_row_stride, x_row_stride, scratch + r * depth);
        } else {
          kTiles[count - 1].pack_columns(depth, from + r, x_column_stride, scratch + r * depth);
        }
      }
      slice(row, rows, start, depth);
    }
  }
}

std::int64_t gemm_scratch(std::int64_t m) { return (m < kRowBlock ? m : kRowBlock) * kDepth; }

void gemm(std::int64_t m, std::int64_t n, std::int64_t k, const float* x, std::int64_t x_row_stride,
          std::int64_t x_column_stride, const float* packed, std::int64_t first_panel, std::int64_t last_panel,
          bool add, float* y, std::int64_t y_stride, float* scratch) {
  for_each_slice(m, k, x, x_row_stride, x_column_stride, scratch,
                 [&](std::int64_t row, std::int64_t rows, std::int64_t start, std::int64_t depth) {
                   for (std::int64_t p = first_panel; p < last_panel; ++p) {
                     const float* panel = packed + (p * k + start) * kPanel;
                     const std::int64_t columns = n - p * kPanel < kPanel ? n - p * kPanel : kPanel;
                     const float* next = p + 1 < last_panel ? panel + k * kPanel : panel;
                     gemm_panel(rows, depth, scratch, panel, next, depth * kPanel * 4, add || start > 0,
                                y + row * y_stride + p * kPanel, y_stride, columns);
                   }
                 });
}

using Int8 = std::int8_t __attribute__((vector_size(SAO_WIDTH)));
using Int8U = std::int8_t __attribute__((vector_size(SAO_WIDTH), aligned(1), may_alias));

// The compiler makes the conversion of a vector of bytes in many pieces where it is not told the instruction.
inline Vec load_levels(const std::int8_t* p) {
#if SAO_WIDTH == 16
  const __mmask16 all = 0xffff;  // the forms without a mask read what was never set, says the compiler
  return _mm512_maskz_cvtepi32_ps(
      all, _mm512_maskz_cvtepi8_epi32(all, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif SAO_WIDTH == 8
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(__builtin_convertvector(Int8(*reinterpret_cast<const Int8U*>(p)), Int), Vec);
#endif
}

// To the nearest, ties to even, as an integer in the low bits of the magic number's fraction.
inline float rounded_to_integer(float x) {
  const float magic = 12582912.0f;     // 1.5 * 2^23
  volatile float shifted = x + magic;  // or the compiler would cancel the two
  return shifted - magic;
}

void pack_int8(std::int64_t n, std::int64_t k, const float* weight, std::int8_t* packed, float* scales) {
  for (std::int64_t first = 0; first < n; first += kPanel) {
    for (std::int64_t start = 0; start < k; start += kInt8Group, scales += kPanel) {
      const std::int64_t end = k - start < kInt8Group ? k : start + kInt8Group;
      for (std::int64_t c = 0; c < kPanel; ++c) {
        const float* row = weight + (first + c) * k;
        float largest = 0.0f;
        for (std::int64_t j = start; j < end && first + c < n; ++j) {
          const float size = row[j] < 0.0f ? -row[j] : row[j];
          largest = size > largest ? size : largest;
        }
        const float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;  // of less it would overflow: as good as zero
        scales[c] = largest > 1e-30f ? largest / 127.0f : 0.0f;
        for (std::int64_t j = start; j < end; ++j) {
          const float level = first + c < n ? rounded_to_integer(row[j] * inverse) : 0.0f;
          packed[j * kPanel + c] = static_cast<std::int8_t>(level);
        }
      }
    }
    packed += k * kPanel;
  }
}

// gemm_tile of a panel in 8 bits. A weight is its level times its group's scale, rounded, as in widen_panel: the same
// bits.
template <std::int64_t kRows>
inline void int8_tile(std::int64_t depth, const float* x, std::int64_t x_stride, const std::int8_t* levels,
                      const float* scales, bool add, float* y, std::int64_t y_stride, std::int64_t columns) {
  Vec acc[kRows][2] = {};
  for (std::int64_t start = 0; start < depth; start += kInt8Group, scales += kPanel) {
    const std::int64_t end = depth - start < kInt8Group ? depth : start + kInt8Group;
    const Vec scale0 = load(scales), scale1 = load(scales + W);
    for (std::int64_t j = start; j < end; ++j) {
      const Vec b0 = load_levels(levels + j * kPanel) * scale0;
      const Vec b1 = load_levels(levels + j * kPanel + W) * scale1;
      for (std::int64_t r = 0; r < kRows; ++r) {
        const Vec a = splat(x[r * x_stride + j]);
        acc[r][0] += a * b0;
        acc[r][1] += a * b1;
      }
    }
  }
  store_tile<kRows>(acc, add, y, y_stride, columns);
}

using Int8TileFunction = void (*)(std::int64_t, const float*, std::int64_t, const std::int8_t*, const float*, bool,
                                  float*, std::int64_t, std::int64_t);
constexpr Int8TileFunction kInt8Tiles[] = {int8_tile<1>, int8_tile<2>, int8_tile<3>, int8_tile<4>};
constexpr std::int64_t kInt8Rows = 4;  // more rows share widened weights

void widen_panel(std::int64_t depth, const std::int8_t* levels, const float* scales, float* wide) {
  for (std::int64_t start = 0; start < depth; start += kInt8Group, scales += kPanel) {
    const std::int64_t end = depth - start < kInt8Group ? depth : start + kInt8Group;
    const Vec scale0 = load(scales), scale1 = load(scales + W);
    for (std::int64_t j = start; j < end; ++j) {
      store(wide + j * kPanel, load_levels(levels + j * kPanel) * scale0);
      store(wide + j * kPanel + W, load_levels(levels + j * kPanel + W) * scale1);
    }
  }
}

void gemm_int8(std::int64_t m, std::int64_t n, std::int64_t k, const float* x, std::int64_t x_stride,
               const std::int8_t* packed, const float* scales, std::int64_t first_panel, std::int64_t last_panel,
               float* y, std::int64_t y_stride, float* scratch) {
  static_assert(kDepth % kInt8Group == 0);
  const std::int64_t groups = (k + kInt8Group - 1) / kInt8Group;
  const auto levels_of = [&](std::int64_t p, std::int64_t start) { return packed + (p * k + start) * kPanel; };
  const auto scales_of = [&](std::int64_t p, std::int64_t start) {
    return scales + (p * groups + start / kInt8Group) * kPanel;
  };
  const auto columns_of = [&](std::int64_t p) { return n - p * kPanel < kPanel ? n - p * kPanel : kPanel; };
  if (m > 0 && m <= kInt8Rows) {
    for (std::int64_t start = 0; start < k; start += kDepth) {
      const std::int64_t depth = k - start < kDepth ? k - start : kDepth;
      for (std::int64_t p = first_panel; p < last_panel; ++p) {
        kInt8Tiles[m - 1](depth, x + start, x_stride, levels_of(p, start), scales_of(p, start), start > 0,
                          y + p * kPanel, y_stride, columns_of(p));
      }
    }
    return;
  }
  for_each_slice(m, k, x, x_stride, 1, scratch,
                 [&](std::int64_t row, std::int64_t rows, std::int64_t start, std::int64_t depth) {
                   for (std::int64_t p = first_panel; p < last_panel; ++p) {
                     alignas(64) float wide[kDepth * kPanel];
                     widen_panel(depth, levels_of(p, start), scales_of(p, start), wide);
                     gemm_panel(rows, depth, scratch, wide, levels_of(p + 1 < last_panel ? p + 1 : p, start),
                                depth * kPanel, start > 0, y + row * y_stride + p * kPanel, y_stride, columns_of(p));
                   }
                 });
}

constexpr std::int64_t B = kAttentionBlock;
constexpr std::int64_t kVecsPerBlock = B / W;
constexpr float kMasked = -3.0e38f;

template <std::int64_t kRows, std::int64_t kBlocks, class Row>
inline void dot_some_blocks(const Row* row, const float* Row::*vector, std::int64_t head_dim,
                            const float* const* blocks, float* scores, std::int64_t stride) {
  constexpr std::int64_t kVecs = kBlocks * kVecsPerBlock;
  Vec acc[kRows][kVecs] = {};
  for (std::int64_t d = 0; d < head_dim; ++d) {
    Vec key[kVecs];
    for (std::int64_t v = 0; v < kVecs; ++v) key[v] = load(blocks[v / kVecsPerBlock] + d * B + v % kVecsPerBlock * W);
    for (std::int64_t r = 0; r < kRows; ++r) {
      const Vec q = splat((row[r].*vector)[d]);
      for (std::int64_t v = 0; v < kVecs; ++v) acc[r][v] += q * key[v];
    }
  }
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t v = 0; v < kVecs; ++v) store(scores + r * stride + v * W, acc[r][v]);
  }
}

// scores[r][j] = query[r] . key[j] for the blocks first_block .. last_block. Several blocks at once: a sum waits for
// its last addition, and a query's number that is loaded once serves all of them.
template <std::int64_t kRows, class Row>
inline void dot_blocks(const Row* row, const float* Row::*vector, std::int64_t head_dim, const float* const* blocks,
                       std::int64_t first_block, std::int64_t last_block, float* scores, std::int64_t stride) {
  constexpr std::int64_t kSums = kRows * kVecsPerBlock, kRegisters = SAO_WIDTH == 16 ? 32 : 16;
  constexpr std::int64_t kBlocks = kSums >= kRegisters / 2 ? 1 : kSums >= 3 ? 2 : 4;
  std::int64_t b = first_block;
  for (; b + kBlocks - 1 <= last_block; b += kBlocks) {
    dot_some_blocks<kRows, kBlocks>(row, vector, head_dim, blocks + b, scores + b * B, stride);
  }
  for (; b <= last_block; ++b) {
    dot_some_blocks<kRows, 1>(row, vector, head_dim, blocks + b, scores + b * B, stride);
  }
}

template <class Row>
inline void block_range(std::int64_t rows, const Row* row, std::int64_t* first_block, std::int64_t* last_block) {
  std::int64_t first = row[0].first_key, last = row[0].last_key;
  for (std::int64_t r = 1; r < rows; ++r) {
    first = row[r].first_key < first ? row[r].first_key : first;
    last = row[r].last_key > last ? row[r].last_key : last;
  }
  *first_block = first / B;
  *last_block = last / B;
}

inline Vec lane_indices() {
  Vec v;
  for (std::int64_t i = 0; i < W; ++i) v[i] = static_cast<float>(i);
  return v;
}

// kVecs vectors of the rows' outputs, from column d: the values' sums by the scores' weights, times inverse_sum.
template <std::int64_t kRows, std::int64_t kVecs>
inline void weighted_values(const AttentionRow* row, std::int64_t head_dim, std::int64_t d,
                            const float* const* value_blocks, std::int64_t first_block, std::int64_t last_block,
                            const float* scores, std::int64_t stride, const float* inverse_sum) {
  Vec acc[kRows][kVecs] = {};
  const std::int64_t last = head_dim - d - (kVecs - 1) * W;  // columns of the last vector
  for (std::int64_t b = first_block; b <= last_block; ++b) {
    const float* value = value_blocks[b] + d;
    const float* weight = scores + b * B;
    for (std::int64_t j = 0; j < B; ++j, ++weight, value += head_dim) {
      Vec v[kVecs];
      for (std::int64_t i = 0; i + 1 < kVecs; ++i) v[i] = load(value + i * W);
      v[kVecs - 1] = load_up_to(value + (kVecs - 1) * W, last);
      for (std::int64_t r = 0; r < kRows; ++r) {
        const Vec p = splat(weight[r * stride]);
        for (std::int64_t i = 0; i < kVecs; ++i) acc[r][i] += p * v[i];
      }
    }
  }
  for (std::int64_t r = 0; r < kRows; ++r) {
    for (std::int64_t i = 0; i + 1 < kVecs; ++i) store(row[r].out + d + i * W, acc[r][i] * inverse_sum[r]);
    store_up_to(row[r].out + d + (kVecs - 1) * W, acc[r][kVecs - 1] * inverse_sum[r], last);
  }
}

template <std::int64_t kRows>
void attention_rows(const AttentionRow* row, std::int64_t head_dim, const float* const* key_blocks,
                    const float* const* value_blocks, float scale, float softcap, float* scores) {
  std::int64_t first_block, last_block;
  block_range(kRows, row, &first_block, &last_block);
  const std::int64_t stride = (last_block + 1) * B;
  dot_blocks<kRows>(row, &AttentionRow::query, head_dim, key_blocks, first_block, last_block, scores, stride);

  const Vec lanes = lane_indices();
  const float inner_scale = softcap > 0.0f ? scale / softcap : scale;
  float inverse_sum[kRows];
  for (std::int64_t r = 0; r < kRows; ++r) {
    float* s = scores + r * stride;
    const float first = static_cast<float>(row[r].first_key), last = static_cast<float>(row[r].last_key);
    Vec best = splat(kMasked), index = lanes + static_cast<float>(first_block * B);
    for (std::int64_t j = first_block * B; j < stride; j += W, index += static_cast<float>(W)) {
      Vec v = load(s + j) * inner_scale;
      if (softcap > 0.0f) v = softcap * vtanh(v);
      v = ((index >= first) & (index <= last)) ? v : splat(kMasked);
      store(s + j, v);
      best = vmax(best, v);
    }
    const float peak = max_lanes(best);
    Vec sum{};
    for (std::int64_t j = first_block * B; j < stride; j += W) {
      const Vec v = vexp(load(s + j) - peak);
      store(s + j, v);
      sum += v;
    }
    const float total = sum_lanes(sum);
    inverse_sum[r] = 1.0f / total;
    if (row[r].log_sum_exp != nullptr) *row[r].log_sum_exp = peak + log_of(total);
  }

  for (std::int64_t d = 0; d < head_dim;) {
    const std::int64_t left = (head_dim - d + W - 1) / W;  // vectors
    const auto some = [&]<std::int64_t kVecs>() {
      weighted_values<kRows, kVecs>(row, head_dim, d, value_blocks, first_block, last_block, scores, stride,
                                    inverse_sum);
      d += kVecs * W;
    };
    if (left == 3 || left > 4) {
      some.template operator()<3>();
    } else if (left != 1) {
      some.template operator()<2>();
    } else {
      some.template operator()<1>();
    }
  }
}

using AttentionFunction = void (*)(const AttentionRow*, std::int64_t, const float* const*, const float* const*, float,
                                   float, float*);
constexpr AttentionFunction kAttention[] = {
    attention_rows<1>, attention_rows<2>, attention_rows<3>, attention_rows<4>,
#if SAO_WIDTH == 16
    attention_rows<5>, attention_rows<6>, attention_rows<7>, attention_rows<8>,
#endif
};

void attention(std::int64_t rows, const AttentionRow* row, std::int64_t head_dim, const float* const* key_blocks,
               const float* const* value_blocks, float scale, float softcap, float* scores) {
  kAttention[rows - 1](row, head_dim, key_blocks, value_blocks, scale, softcap, scores);
}

template <std::int64_t kRows>
void attention_backward_rows(const AttentionBackwardRow* row, std::int64_t head_dim, const float* const* key_blocks,
                             const float* const* value_blocks_t, const float* keys, float scale, float softcap,
                             float* key_grad, float* value_grad, float* scratch) {
  std::int64_t first_block, last_block;
  block_range(kRows, row, &first_block, &last_block);
  const std::int64_t stride = (last_block + 1) * B;
  float* scores = scratch;                        // becomes the probabilities
  float* score_grads = scratch + kRows * stride;  // d probability, then d score
  dot_blocks<kRows>(row, &AttentionBackwardRow::query, head_dim, key_blocks, first_block, last_block, scores, stride);
  dot_blocks<kRows>(row, &AttentionBackwardRow::out_grad, head_dim, value_blocks_t, first_block, last_block,
                    score_grads, stride);

  const Vec lanes = lane_indices();
  const float inner_scale = softcap > 0.0f ? scale / softcap : scale;
  for (std::int64_t r = 0; r < kRows; ++r) {
    Vec dots{};
    for (std::int64_t d = 0; d < head_dim; d += W) {
      dots += load_up_to(row[r].out + d, head_dim - d) * load_up_to(row[r].out_grad + d, head_dim - d);
    }
    const float delta = sum_lanes(dots);
    const float first = static_cast<float>(row[r].first_key), last = static_cast<float>(row[r].last_key);
    Vec index = lanes + static_cast<float>(first_block * B);
    for (std::int64_t j = first_block * B; j < stride; j += W, index += static_cast<float>(W)) {
      Vec v = load(scores + r * stride + j) * inner_scale;
      Vec slope = splat(scale);
      if (softcap > 0.0f) {
        const Vec t = vtanh(v);
        v = softcap * t;
        slope = slope * (1.0f - t * t);
      }
      Vec p = vexp(v - row[r].log_sum_exp);
      p = ((index >= first) & (index <= last)) ? p : Vec{};
      store(scores + r * stride + j, p);
      store(score_grads + r * stride + j, p * (load(score_grads + r * stride + j) - delta) * slope);
    }
  }

  const std::int64_t last_key = [&] {
    std::int64_t last = row[0].last_key;
    for (std::int64_t r = 1; r < kRows; ++r) last = row[r].last_key > last ? row[r].last_key : last;
    return last;
  }();
  for (std::int64_t d = 0; d < head_dim; d += W) {
    const std::int64_t left = head_dim - d;
    Vec query[kRows], out_grad[kRows], query_grad[kRows] = {};
    for (std::int64_t r = 0; r < kRows; ++r) {
      query[r] = load_up_to(row[r].query + d, left);
      out_grad[r] = load_up_to(row[r].out_grad + d, left);
    }
    for (std::int64_t j = first_block * B; j <= last_key; ++j) {
      const Vec key = load_up_to(keys + j * head_dim + d, left);
      Vec dk = load_up_to(key_grad + j * head_dim + d, left);
      Vec dv = load_up_to(value_grad + j * head_dim + d, left);
      for (std::int64_t r = 0; r < kRows; ++r) {
        const Vec ds = splat(score_grads[r * stride + j]);
        query_grad[r] += ds * key;
        dk += ds * query[r];
        dv += splat(scores[r * stride + j]) * out_grad[r];
      }
      store_up_to(key_grad + j * head_dim + d, dk, left);
      store_up_to(value_grad + j * head_dim + d, dv, left);
    }
    for (std::int64_t r = 0; r < kRows; ++r) store_up_to(row[r].query_grad + d, query_grad[r], left);
  }
}

void attention_backward(std::int64_t rows, const AttentionBackwardRow* row, std::int64_t head_dim,
                        const float* const* key_blocks, const float* const* value_blocks_t, const float* keys,
                        float scale, float softcap, float* key_grad, float* value_grad, float* scratch) {
  const auto function = rows == 1   ? attention_backward_rows<1>
                        : rows == 2 ? attention_backward_rows<2>
                        : rows == 3 ? attention_backward_rows<3>
                                    : attention_backward_rows<4>;
  function(row, head_dim, key_blocks, value_blocks_t, keys, scale, softcap, key_grad, value_grad, scratch);
}

// Four vectors at a time, so that sums of long rows keep their low bits.
float log_sum_exp_row(std::int64_t width, const float* z, float softcap, float* peak_out) {
  Vec best = splat(kMasked);
  std::int64_t i = 0;
  for (; i + W <= width; i += W) best = vmax(best, load(z + i));
  float peak = max_lanes(best);
  for (; i < width; ++i) peak = z[i] > peak ? z[i] : peak;
  const Vec capped_peak = softcap > 0.0f ? softcap * vtanh(splat(peak) / softcap) : splat(peak);
  Vec sums[4] = {};
  i = 0;
  for (std::int64_t lane = 0; i < width; i += W, lane = (lane + 1) % 4) {
    const std::int64_t left = width - i;
    Vec v = left >= W ? load(z + i) : splat(kMasked);
    if (left < W) {
      for (std::int64_t j = 0; j < left; ++j) v[j] = z[i + j];
    }
    Vec capped = softcap > 0.0f ? softcap * vtanh(v / softcap) : v;
    capped = v <= kMasked ? splat(kMasked) : capped;
    sums[lane] += vexp(capped - capped_peak);
  }
  *peak_out = capped_peak[0];
  return capped_peak[0] + log_of(sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3])));
}

void log_probs(std::int64_t rows, std::int64_t width, const float* z, float softcap, const std::int64_t* targets,
               float* log_prob, float* log_sum_exp) {
  for (std::int64_t r = 0; r < rows; ++r, z += width) {
    float peak;
    log_sum_exp[r] = log_sum_exp_row(width, z, softcap, &peak);
    Vec target = splat(z[targets[r]]);
    if (softcap > 0.0f) target = softcap * vtanh(target / softcap);
    log_prob[r] = target[0] - log_sum_exp[r];
  }
}

void logit_sums(std::int64_t rows, std::int64_t width, const float* z, std::int64_t stride, float softcap,
                LogitSums* sums, std::int64_t sums_stride) {
  for (std::int64_t r = 0; r < rows; ++r, z += stride, sums += sums_stride) {
    Vec best = splat(kMasked);
    std::int64_t i = 0;
    for (; i + W <= width; i += W) best = vmax(best, load(z + i));
    float raw_peak = max_lanes(best);
    for (; i < width; ++i) raw_peak = z[i] > raw_peak ? z[i] : raw_peak;
    const auto capped = [&](Vec v) { return softcap > 0.0f ? softcap * vtanh(v / softcap) : v; };
    const Vec peak = capped(splat(raw_peak));
    Vec sum{}, weighted{}, squares{}, total{};
    const auto add = [&](Vec v) {
      const Vec above = v - peak, e = vexp(above);
      sum += e;
      weighted += above * e;
      squares += e * e;
      total += v;
    };
    for (i = 0; i + W <= width; i += W) add(capped(load(z + i)));
    LogitSums of_rest{};
    if (i < width) {
      const Vec v = capped(load_part(z + i, width - i)), above = v - peak, e = vexp(above);
      for (std::int64_t lane = 0; lane < width - i; ++lane) {
        of_rest.sum += e[lane];
        of_rest.weighted += above[lane] * e[lane];
        of_rest.squares += e[lane] * e[lane];
        of_rest.total += v[lane];
      }
    }
    *sums = {peak[0], sum_lanes(sum) + of_rest.sum, sum_lanes(weighted) + of_rest.weighted,
             sum_lanes(squares) + of_rest.squares, sum_lanes(total) + of_rest.total};
  }
}

void log_probs_backward(std::int64_t rows, std::int64_t width, std::int64_t first, float* z, std::int64_t stride,
                        float softcap, const std::int64_t* targets, const float* log_sum_exp, const float* grad) {
  for (std::int64_t r = 0; r < rows; ++r, z += stride) {
    const std::int64_t target = targets[r] - first;
    const bool is_here = target >= 0 && target < width;
    float target_slope = 1.0f;
    if (is_here && softcap > 0.0f) {
      const Vec t = vtanh(splat(z[target]) / softcap);
      target_slope = 1.0f - t[0] * t[0];
    }
    for (std::int64_t i = 0; i < width; i += W) {
      const std::int64_t left = width - i;
      Vec v = load_up_to(z + i, left);
      Vec slope = splat(1.0f);
      if (softcap > 0.0f) {
        const Vec t = vtanh(v / softcap);
        v = softcap * t;
        slope = 1.0f - t * t;
      }
      store_up_to(z + i, vexp(v - log_sum_exp[r]) * slope * -grad[r], left);
    }
    if (is_here) z[target] += grad[r] * target_slope;
  }
}

void softcap_flat(std::int64_t count, float* z, float cap) {
  for (std::int64_t i = 0; i < count; i += W) {
    store_up_to(z + i, cap * vtanh(load_up_to(z + i, count - i) / cap), count - i);
  }
}

}  // namespace

#define SAO_CONCAT_2(a, b) a##b
#define SAO_CONCAT(a, b) SAO_CONCAT_2(a, b)
#define SAO_STRING_2(a) #a
#define SAO_STRING(a) SAO_STRING_2(a)

const Kernels SAO_CONCAT(kKernels_, SAO_ISA) = {
    .name = SAO_STRING(SAO_ISA),
    .rms_norm = rms_norm,
    .residual_norm = residual_norm,
    .rms_norm_backward = rms_norm_backward,
    .rotary = rotary,
    .gate = gate,
    .gate_backward = gate_backward,
    .panel = kPanel,
    .pack = pack,
    .gemm_scratch = gemm_scratch,
    .gemm = gemm,
    .pack_int8 = pack_int8,
    .gemm_int8 = gemm_int8,
    .attention_rows = sizeof(kAttention) / sizeof(kAttention[0]),
    .attention = attention,
    .attention_backward = attention_backward,
    .log_probs = log_probs,
    .logit_sums = logit_sums,
    .log_probs_backward = log_probs_backward,
    .softcap = softcap_flat,
};

}  // namespace sao::ops
