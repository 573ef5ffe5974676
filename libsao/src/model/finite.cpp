// SPDX-License-Identifier: Apache-2.0
#include "model/finite.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

#include "sao/base/error.h"

namespace sao::detail {
namespace {

/// The exponent's bits are all set in NaN and the infinities, and in nothing else.
template <class Bits>
bool any_not_finite(const Bits* values, std::int64_t count, Bits exponent) {
  Bits found = 0;
  for (std::int64_t i = 0; i < count; ++i) found |= static_cast<Bits>((values[i] & exponent) == exponent);
  return found != 0;
}

/// The first such place; -1 where there is none.
template <class Bits>
std::int64_t first_not_finite(const at::Tensor& tensor, Bits exponent) {
  constexpr std::int64_t kChunk = 1 << 16;
  const auto* values = static_cast<const Bits*>(tensor.const_data_ptr());
  const std::int64_t count = tensor.numel();
  std::atomic<std::int64_t> first{count};
  at::parallel_for(0, (count + kChunk - 1) / kChunk, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t chunk = begin; chunk < end; ++chunk) {
      const std::int64_t from = chunk * kChunk, to = std::min(count, from + kChunk);
      if (from >= first || !any_not_finite(values + from, to - from, exponent)) continue;
      const Bits* place = std::find_if(values + from, values + to, [&](Bits v) { return (v & exponent) == exponent; });
      std::int64_t known = first;
      while (place - values < known && !first.compare_exchange_weak(known, place - values)) {
      }
      return;  // what follows in this range is later
    }
  });
  return first == count ? -1 : first.load();
}

std::int64_t first_place(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return first_not_finite<std::uint32_t>(tensor, 0x7F800000U);
    case at::kBFloat16:
      return first_not_finite<std::uint16_t>(tensor, 0x7F80U);
    case at::kHalf:
      return first_not_finite<std::uint16_t>(tensor, 0x7C00U);
    case at::kDouble:
      return first_not_finite<std::uint64_t>(tensor, 0x7FF0000000000000ULL);
    default:
      throw InternalError("find_not_finite: not a floating dtype of a model");
  }
}

}  // namespace

std::optional<NotFinite> find_not_finite(const at::Tensor& tensor) {
  SAO_CHECK(tensor.device().is_cpu() && tensor.is_contiguous());
  std::int64_t place = first_place(tensor);
  if (place < 0) return std::nullopt;
  NotFinite found = {.value = tensor.view(-1)[place].item<double>()};
  for (std::int64_t d = tensor.dim() - 1; d >= 0; --d) {
    found.index.insert(found.index.begin(), place % tensor.size(d));
    place /= tensor.size(d);
  }
  return found;
}

}  // namespace sao::detail
