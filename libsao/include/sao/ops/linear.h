// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b. In float32 on the CPU through our own kernels, whose result for a row does not depend on the other
// rows; elsewhere through ATen.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "sao/ops/pointwise.h"

namespace sao::ops {

/// How a PackedWeight holds its numbers.
enum class WeightFormat {
  kFloat32,
  kInt8  ///< 8 bits; every 64 inputs of an output share a float32 scale, the largest of their sizes / 127. A quarter of
         ///< the memory, read and held; computed with in float32
};

/// Weights laid out for the CPU's kernel (float32), with their biases. Several matrices with the same input
/// can be packed as one, their outputs side by side. A value; copies share. Does not follow later changes of the
/// weights.
class PackedWeight {
 public:
  PackedWeight() = default;
  /// Shape: each weight [n_i, k], float32, CPU; as many biases [n_i], undefined where a weight has none, or none at
  /// all. Throws InputError otherwise.
  static PackedWeight pack(std::span<const at::Tensor> weights, std::span<const at::Tensor> biases = {},
                           WeightFormat format = WeightFormat::kFloat32);
  /// True where pack and linear work: float32 tensors on the CPU.
  static bool supports(const at::Tensor& weight);

  bool defined() const { return storage_.defined(); }
  std::int64_t outputs() const { return outputs_; }
  std::int64_t inputs() const { return inputs_; }

  /// The weights of `count` outputs from `first` on, which is a multiple of kPanelOutputs; shares the memory.
  PackedWeight narrow(std::int64_t first, std::int64_t count) const;
  static constexpr std::int64_t kPanelOutputs = 32;

  /// x [rows, k] float32 (of any strides) -> [rows, sum n_i]. Every output is a sum of chains of fused multiply-adds,
  /// each over the next inputs, and its bias: a row's bits depend on that row only, whatever the number of rows or
  /// threads. Throws InputError for an x of another shape, dtype or device, and where nothing was packed.
  at::Tensor multiply(const at::Tensor& x) const;
  /// The same into y [rows, sum n_i] float32, whose rows may be strided; added to it where `add`, of float32 without
  /// biases. Throws as multiply, and for a y that does not fit.
  void multiply_into(const at::Tensor& y, const at::Tensor& x, bool add = false) const;

  /// Rows `ids` [n] int64 of the packed weights side by side, as they were given: [n, k]; of kInt8 as rounded. What an
  /// embedding that is held packed gives. Throws InputError for other ids and where nothing was packed.
  at::Tensor rows(const at::Tensor& ids) const;

  /// gated_activation of multiply(x)'s two halves, gate and up, with the same bits; of many rows rows_at_once at a
  /// time, so that what is halved does not stand in memory as a whole. -> [rows, sum n_i / 2]. Throws as multiply, and
  /// for an odd number of outputs.
  at::Tensor multiply_gated(const at::Tensor& x, Gate kind) const;
  /// Of `rows`, how many multiply_gated has before it at one time, in all threads together. Weights with biases, and
  /// Gate::kGelu, take all at once.
  static std::int64_t rows_at_once(std::int64_t rows);

 private:
  at::Tensor checked(const at::Tensor& x, std::string_view what) const;
  void multiply_rows(const at::Tensor& x, std::int64_t first, std::int64_t last, std::int64_t first_panel,
                     std::int64_t last_panel, bool add, float* y, std::int64_t y_stride) const;

  at::Tensor storage_;  // [panels, k, panel] float32 or int8
  at::Tensor scales_;   // [panels, groups, panel] float32; of int8 only
  at::Tensor bias_;     // [outputs]; undefined: none
  std::int64_t outputs_ = 0;
  std::int64_t inputs_ = 0;
};

/// a [m, k] b [k, n] of one dtype and device, of any strides -> [m, n], not differentiable. In float32 on the CPU by
/// our kernels, b packed on the fly; elsewhere at::mm.
at::Tensor product(const at::Tensor& a, const at::Tensor& b);

/// x [rows, k] times weight [n, k] transposed, plus bias [n] where it is defined; differentiable in all three, once. In
/// float32 on the CPU as PackedWeight (packed on the fly; keep a PackedWeight to save that where no gradient is
/// wanted), elsewhere at::linear. Throws InputError for shapes that do not fit.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

}  // namespace sao::ops
