// SPDX-License-Identifier: Apache-2.0
#include "sao/loss/unpaired.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loss/pair_values.h"
#include "loss/tensors.h"
#include "sao/base/error.h"
#include "sao/loss/preference.h"

namespace sao {
namespace {

using detail::Slope;

// 1 - sg(x)
Slope one_minus_sigmoid(double x) { return {detail::sigmoid(-x), -detail::sigmoid(x) * detail::sigmoid(-x)}; }

// Value and slope in a = s - reference.
Slope row_value(const KTO& o, double a, bool desirable, double kl) {
  const Slope v = one_minus_sigmoid(desirable ? o.beta * (a - kl) : o.beta * (kl - a));
  return desirable ? Slope{o.desirable_weight * v.value, o.desirable_weight * o.beta * v.slope}
                   : Slope{o.undesirable_weight * v.value, -o.undesirable_weight * o.beta * v.slope};
}

Slope row_value(const ApoZeroUnpaired& o, double a, bool desirable, double) {
  return row_value(KTO{o.beta, o.desirable_weight, o.undesirable_weight}, a, desirable, 0.0);
}

}  // namespace

double kl_estimate(const at::Tensor& completion, const at::Tensor& reference) {
  constexpr const char* kWhere = "kl_estimate";
  const std::int64_t count = detail::check_sums(completion, kWhere, "completion");
  const std::vector<double> s = detail::to_doubles(completion, kWhere, "completion", count);
  const std::vector<double> r = detail::to_doubles(reference, kWhere, "reference", count);
  double sum = 0.0;
  for (std::size_t i = 0; i < s.size(); ++i) sum += s[i] - r[i];
  return std::max(0.0, sum / static_cast<double>(count));
}

UnpairedLosses unpaired_loss(const PreferenceLoss& loss, const UnpairedLogps& logps) {
  constexpr const char* kWhere = "unpaired_loss";
  validate(loss);
  if (!is_unpaired(loss)) {
    throw InputError(
        fmt::format("unpaired_loss: {} is a loss of pairs, expected kto or apo_zero_unpaired", loss_name(loss)));
  }
  const std::int64_t count = detail::check_sums(logps.completion, kWhere, "completion");
  const auto required = [&](const at::Tensor& tensor, const char* name) {
    if (!tensor.defined()) {
      throw InputError(fmt::format("unpaired_loss: {} is missing, expected for loss {}", name, loss_name(loss)));
    }
    return detail::to_doubles(tensor, kWhere, name, count);
  };
  const std::vector<double> s = required(logps.completion, "completion"), r = required(logps.reference, "reference");
  const std::vector<double> label = required(logps.label, "label");
  const std::vector<double> weight =
      logps.weight.defined() ? required(logps.weight, "weight") : std::vector<double>(s.size(), 1.0);
  const at::Tensor values = at::empty({3, count}, at::kDouble);
  auto out = values.accessor<double, 2>();
  std::visit(
      [&]<class Loss>(const Loss& o) {
        if constexpr (detail::UnpairedFamily<Loss>) {
          for (std::size_t i = 0; i < s.size(); ++i) {
            const auto row = static_cast<std::int64_t>(i);
            detail::check_weight(weight[i], kWhere, "row", row);
            const double a = s[i] - r[i];
            const Slope v = row_value(o, a, label[i] != 0.0, logps.kl);
            out[0][row] = weight[i] * v.value;
            out[1][row] = o.beta * a;
            out[2][row] = weight[i] * v.slope;
          }
        }
      },
      loss);
  const auto rows = detail::like_input(values, logps.completion);
  UnpairedLosses result{.loss = rows[0], .rewards = rows[1], .gradient = rows[2]};
  result.loss = detail::with_slope(result.loss, result.gradient, logps.completion);
  return result;
}

}  // namespace sao
