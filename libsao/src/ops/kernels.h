// SPDX-License-Identifier: Apache-2.0
// The float32 CPU kernels, chosen once for the instruction set of the machine at hand. All work on raw rows, are
// free of threads and allocation, and give a row the same bits whatever other rows are computed with it.
#pragma once

#include <cstdint>

namespace sao::ops {

/// Tokens whose keys (or values) lie together: keys as [head_dim][16], values as [16][head_dim].
inline constexpr std::int64_t kAttentionBlock = 16;

/// Inputs of an output that share a scale where weights have 8 bits.
inline constexpr std::int64_t kInt8Group = 64;

/// Query rows of one call of Kernels::attention at most, whatever the machine.
inline constexpr std::int64_t kMostAttentionRows = 8;

/// One query row of an attention task: it sees keys first_key .. last_key (inclusive) of its sequence.
struct AttentionRow {
  const float* query;  ///< [head_dim]
  float* out;          ///< [head_dim]
  float* log_sum_exp;  ///< scalar; null when not wanted
  std::int64_t first_key;
  std::int64_t last_key;
};

struct AttentionBackwardRow {
  const float* query;     ///< [head_dim]
  const float* out;       ///< [head_dim], as the forward pass gave it
  const float* out_grad;  ///< [head_dim]
  float log_sum_exp;
  float* query_grad;  ///< [head_dim], written
  std::int64_t first_key;
  std::int64_t last_key;
};

/// What is kept of some logits of a row, soft-capped, to have the whole row's log-sum-exp and statistics from.
struct LogitSums {
  float peak;      ///< the largest
  float sum;       ///< sum of e^(z - peak)
  float weighted;  ///< sum of (z - peak) e^(z - peak)
  float squares;   ///< sum of e^(2 (z - peak))
  float total;     ///< sum of z
};

enum class GateKind { kGeluTanh, kSilu };

struct Kernels {
  const char* name;

  // y = x * rsqrt(mean(x^2) + eps) * (offset + weight); inverse_rms[rows] may be null.
  void (*rms_norm)(std::int64_t rows, std::int64_t width, const float* x, const float* weight, float offset, float eps,
                   float* y, float* inverse_rms);
  // sum = h + update, or h + rms_norm(update) where update_weight is not null; y = rms_norm(sum) where weight is not
  // null. The same bits as one after the other.
  void (*residual_norm)(std::int64_t rows, std::int64_t width, const float* h, const float* update,
                        const float* update_weight, const float* weight, float offset, float eps, float* sum, float* y);
  // Adds to weight_grad[width]; writes x_grad.
  void (*rms_norm_backward)(std::int64_t rows, std::int64_t width, const float* x, const float* weight, float offset,
                            const float* inverse_rms, const float* y_grad, float* x_grad, float* weight_grad);

  // Rotates the halves of each head: (a, b) -> (a cos - b sin, b cos + a sin); sign -1 rotates back.
  // x rows are x_stride apart, y rows y_stride; cosines and sines are [positions][head_dim / 2].
  void (*rotary)(std::int64_t rows, std::int64_t heads, std::int64_t head_dim, const float* x, std::int64_t x_stride,
                 const std::int64_t* positions, const float* cosines, const float* sines, float sign, float* y,
                 std::int64_t y_stride);

  // y = activation(gate) * up; gate and up rows are `stride` apart.
  void (*gate)(GateKind kind, std::int64_t rows, std::int64_t width, const float* gate, const float* up,
               std::int64_t stride, float* y);
  // gate_grad may be y_grad.
  void (*gate_backward)(GateKind kind, std::int64_t count, const float* gate, const float* up, const float* y_grad,
                        float* gate_grad, float* up_grad);

  // Weights [n][k], element (i, j) at weight[i * row_stride + j * column_stride], one of which is 1, packed into panels
  // of `panel` columns: [ceil(n / panel)][k][panel], zero-filled.
  std::int64_t panel;
  void (*pack)(std::int64_t n, std::int64_t k, const float* weight, std::int64_t row_stride, std::int64_t column_stride,
               float* packed);
  // y[m][n0..n1) = x[m][k] . packed, or y + x . packed where `add`; n0 a multiple of panel, x's strides as those of
  // pack. An output is the sum of slices of k, each one chain of fused multiply-adds in ascending k: independent of m
  // and of how rows and columns are split. scratch: gemm_scratch(m).
  std::int64_t (*gemm_scratch)(std::int64_t m);
  void (*gemm)(std::int64_t m, std::int64_t n, std::int64_t k, const float* x, std::int64_t x_row_stride,
               std::int64_t x_column_stride, const float* packed, std::int64_t first_panel, std::int64_t last_panel,
               bool add, float* y, std::int64_t y_stride, float* scratch);

  // The same of weights in 8 bits: packed [ceil(n / panel)][k][panel], and a scale for every kInt8Group of the k inputs
  // of an output, [ceil(n / panel)][ceil(k / kInt8Group)][panel]. A weight is its level times the scale, in float32.
  void (*pack_int8)(std::int64_t n, std::int64_t k, const float* weight, std::int8_t* packed, float* scales);
  void (*gemm_int8)(std::int64_t m, std::int64_t n, std::int64_t k, const float* x, std::int64_t x_stride,
                    const std::int8_t* packed, const float* scales, std::int64_t first_panel, std::int64_t last_panel,
                    float* y, std::int64_t y_stride, float* scratch);

  // Attention of `rows` (at most attention_rows) queries over one sequence and one key/value head. key_blocks[b] is
  // [head_dim][16], value_blocks[b] is [16][head_dim]. scores: scratch of rows * (16 * blocks). softcap 0 = none.
  std::int64_t attention_rows;
  void (*attention)(std::int64_t rows, const AttentionRow* row, std::int64_t head_dim, const float* const* key_blocks,
                    const float* const* value_blocks, float scale, float softcap, float* scores);
  // At most 4 rows backwards. keys/values: [n][head_dim] rows; value_blocks_t[b] is [head_dim][16].
  // Adds to key_grad and value_grad [n][head_dim]. scratch: 8 * (16 * blocks).
  void (*attention_backward)(std::int64_t rows, const AttentionBackwardRow* row, std::int64_t head_dim,
                             const float* const* key_blocks, const float* const* value_blocks_t, const float* keys,
                             float scale, float softcap, float* key_grad, float* value_grad, float* scratch);

  // log softmax(softcap(z))[target] and log-sum-exp of each row of z [rows][width].
  void (*log_probs)(std::int64_t rows, std::int64_t width, const float* z, float softcap, const std::int64_t* targets,
                    float* log_prob, float* log_sum_exp);
  // Of z [rows][width], rows `stride` apart: sums[r * sums_stride] of row r.
  void (*logit_sums)(std::int64_t rows, std::int64_t width, const float* z, std::int64_t stride, float softcap,
                     LogitSums* sums, std::int64_t sums_stride);
  // z <- d(sum_i grad[i] * log_prob[i]) / dz, in place, of columns first .. first + width of the logits; rows are
  // `stride` apart.
  void (*log_probs_backward)(std::int64_t rows, std::int64_t width, std::int64_t first, float* z, std::int64_t stride,
                             float softcap, const std::int64_t* targets, const float* log_sum_exp, const float* grad);
  // z <- cap * tanh(z / cap)
  void (*softcap)(std::int64_t count, float* z, float cap);
};

extern const Kernels kKernels_baseline;
extern const Kernels kKernels_avx2;
extern const Kernels kKernels_avx512;

/// The best set that this processor runs.
const Kernels& kernels();

}  // namespace sao::ops
