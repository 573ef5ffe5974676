// SPDX-License-Identifier: Apache-2.0
// Losses of single responses that are known to be good or bad, against a reference model.
// Symbols: preference.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>
#include <type_traits>

#include "sao/base/options.h"
#include "sao/loss/pairwise.h"

namespace sao {

/// Kahneman-Tversky optimization. With a = s - reference and z = max(0, mean over the batch of a of mismatched prompts
/// and completions), which has no gradient: a desirable row costs desirable_weight (1 - sg(beta (a - z))), an
/// undesirable one undesirable_weight (1 - sg(beta (z - a))). Follows: Ethayarajh et al. 2024, eq. 7 and 8. TRL:
/// KTOTrainer "kto"; defaults TRL's. The mismatched pairs are the batch's own, each prompt with the completion of the
/// row before it. Trap: TRL rotates and averages within each device's micro-batch, and keeps the rows in the file's
/// order; here it is the whole optimizer batch, in the seeded order. With n_d desirable and n_u undesirable rows, keep
/// desirable_weight n_d / (undesirable_weight n_u) within 1 to 4/3 (eq. 8).
struct KTO {
  static constexpr std::string_view kName = "kto";
  double beta = 0.1;
  double desirable_weight = 1.0;
  double undesirable_weight = 1.0;
};

/// apo_zero for single responses: desirable_weight (1 - sg(beta a)) and undesirable_weight sg(beta a).
/// Follows: D'Oosterlinck et al. 2024, eq. 7. TRL: KTOTrainer "apo_zero_unpaired". No mismatched pairs: half of KTO's
/// work.
struct ApoZeroUnpaired {
  static constexpr std::string_view kName = "apo_zero_unpaired";
  double beta = 0.1;
  double desirable_weight = 1.0;
  double undesirable_weight = 1.0;
};

namespace detail {
template <class T>
concept UnpairedFamily = kIsOneOf<T, KTO, ApoZeroUnpaired>;
}  // namespace detail

template <class Visitor, class Options>
requires detail::UnpairedFamily<std::remove_const_t<Options>>
void visit_fields(Visitor&& visit, Options& options) {
  visit("beta", options.beta, detail::kBetaHelp);
  visit("desirable_weight", options.desirable_weight, "weight of rows whose label is true");
  visit("undesirable_weight", options.undesirable_weight, "weight of rows whose label is false");
}

/// What an unpaired loss is a function of. All tensors are [B].
struct UnpairedLogps {
  at::Tensor completion = {};  ///< s: floating point
  at::Tensor reference = {};   ///< log-prob sums under the reference
  at::Tensor label = {};       ///< desirable or not: bool, or numbers of which 0 is false
  at::Tensor weight = {};      ///< of each row, >= 0; undefined = 1
  double kl = 0.0;             ///< z of KTO, by kl_estimate
};

/// One value a row, [B], on the device of `completion`; float64 if `completion` is, else float32.
struct UnpairedLosses {
  at::Tensor loss;      ///< not reduced, with weights; differentiable (once) in completion
  at::Tensor rewards;   ///< beta a, no weight
  at::Tensor gradient;  ///< d loss.sum() / d completion
};

/// KTO's z: max(0, mean(completion - reference)) of mismatched pairs' log-prob sums, [B] each.
double kl_estimate(const at::Tensor& completion, const at::Tensor& reference);

}  // namespace sao
