// SPDX-License-Identifier: Apache-2.0
// Preference losses as functions of per-sequence log-prob sums and lengths, with closed-form gradients.
//   sao::PairLosses out = sao::preference_loss(sao::SimPO{.beta = 10.0}, {.chosen = s_w, .rejected = s_l,
//                                              .chosen_lengths = n_w, .rejected_lengths = n_l});
//   out.loss.mean().backward();   // when s_w and s_l carry gradients
//
// Symbols: s = sum of log pi(y_t | x, y_<t) over the response's tokens, n = number of those tokens, m = s / n;
// w = chosen, l = rejected; a = s_w - reference_w, b = s_l - reference_l; sg = logistic function; eps =
// label_smoothing. Each loss has a struct with its formula, source, defaults and traps: pairwise.h, reference_free.h,
// unpaired.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "sao/base/options.h"
#include "sao/loss/pairwise.h"
#include "sao/loss/reference_free.h"
#include "sao/loss/unpaired.h"

namespace sao {

struct WeightedLoss;

/// A weighted sum of losses of pairs: sum over i of weight_i L_i. TRL: DPOTrainer's list of loss_type with
/// loss_weights; {dpo 0.8, bco_pair 0.2, sft 1} is MPO (Wang et al. 2024). By name: "dpo+bco_pair+sft" (or with
/// commas), weights 1. Rewards and logged log-probs are those of the first. Trap: as in TRL an option is shared by all
/// parts that have it, so that their betas must be equal.
struct LossMix {
  std::vector<WeightedLoss> losses = {};
};

/// Which loss, with its options. A new one is a struct here, its pair_value in src/loss and its visit_fields.
using PreferenceLoss = std::variant<SimPO, DPO, CDPO, RobustDPO, DPONorm, RDPO, Hinge, IPO, ExoPair, NcaPair, BcoPair,
                                    SppoHard, SppoSoft, Aot, AotUnpaired, ApoZero, ApoDown, DiscoPOP, Sft, CPO, AlphaPO,
                                    ORPO, TPO, TPOL, SlicHf, RRHF, KTO, ApoZeroUnpaired, LossMix>;

struct WeightedLoss {
  PreferenceLoss loss = DPO{};
  double weight = 1.0;
};

/// "simpo", "dpo", ...; of a mix the names of its parts: "dpo+sft".
std::string loss_name(const PreferenceLoss& loss);
/// The loss of that name with its defaults, or several as "dpo+sft". Also names that others use, with '-' for '_':
/// TRL's "sigmoid" (dpo), "sigmoid_norm" (dpo_norm) and "tpo-l"; "spin" (dpo), "slic" (hinge), "exo", "nca", "sppo",
/// "ipo_avg", "ipo_sum" (ipo without average), "simpo_hinge", "bco" (bco_pair with running_shift).
/// Throws InputError with the known names.
PreferenceLoss parse_loss(std::string_view name);
/// Of all but mixes.
std::vector<std::string_view> loss_names();

/// Whether the loss reads reference log-probs.
bool needs_reference(const PreferenceLoss& loss);
/// Whether its rows are single completions with a label (unpaired_loss), not pairs (preference_loss).
bool is_unpaired(const PreferenceLoss& loss);
/// Whether the value of a pair depends on the other pairs of the batch, so that a part of a batch is not enough: aot,
/// aot_unpaired, bco_pair with its shift.
bool is_batchwise(const PreferenceLoss& loss);
/// Whether the rewards' running mean is to be kept and given as PairLogps::reward_shift.
bool uses_reward_shift(const PreferenceLoss& loss);
/// Whether a part is aot or aot_unpaired, which know neither weights nor soft labels.
bool sorts_pairs(const PreferenceLoss& loss);
/// Whether the loss is made for soft labels and reads p always.
bool reads_soft_labels(const PreferenceLoss& loss);
/// Whether TRL's trainer of this loss logs means instead of sums as logps/chosen and logps/rejected.
bool logs_mean_logps(const PreferenceLoss& loss);

/// Which tokens the NLL term of a loss covers.
enum class NllOf {
  kChosen,           ///< the chosen response
  kPromptAndChosen,  ///< all but the first token of prompt and chosen response (ORPO's nll_of_prompt)
  kGold,             ///< a third response (TPO)
};
NllOf nll_of(const PreferenceLoss& loss);
/// Weight of the token-mean NLL; 0 = the loss has no such term.
double nll_weight(const PreferenceLoss& loss);

/// Throws InputError naming every option that is out of range.
void validate(const PreferenceLoss& loss);
/// Settings that are allowed but lie far outside what has been published, one sentence each.
std::vector<std::string> unusual_settings(const PreferenceLoss& loss);

/// What a loss is a function of. All tensors are [B].
struct PairLogps {
  at::Tensor chosen = {};            ///< s_w: floating point
  at::Tensor rejected = {};          ///< s_l
  at::Tensor chosen_lengths = {};    ///< n_w > 0: any dtype
  at::Tensor rejected_lengths = {};  ///< n_l > 0
  at::Tensor reference_chosen = {};  ///< log-prob sums under the reference, where the loss needs them
  at::Tensor reference_rejected = {};
  at::Tensor p = {};       ///< soft labels in [0, 1]; undefined = 1. The loss is p L(w, l) + (1 - p) L(l, w):
                           ///< at p = 1/2 neither response is preferred, whatever the margin of the loss
  at::Tensor weight = {};  ///< of each pair, >= 0; undefined = 1
  at::Tensor nll = {};     ///< log-prob sums of what the NLL term covers (nll_of); undefined = `chosen`, where that
                           ///< is the chosen response
  at::Tensor nll_lengths = {};   ///< tokens of that, > 0
  double mean_nll_length = 0.0;  ///< mean number of tokens that the NLL term covers, of the whole batch when this is a
                                 ///< part of it: makes the mean over pairs of the term its token mean; 0 = of these
  double reward_shift = 0.0;     ///< bco_pair's delta, where it has one
  bool average_log_probs = false;  ///< the pair part of the loss sees s / n, reference / n and n = 1 (not its NLL term)
};

/// One value a pair, [B], on the device of `chosen`; float64 if `chosen` is, else float32.
struct PairLosses {
  at::Tensor loss;            ///< not reduced, with weight; differentiable (once) in chosen, rejected and nll
  at::Tensor chosen_rewards;  ///< beta times what the loss compares (a, s or m), as TRL logs it; no weight, no margin
  at::Tensor rejected_rewards;
  at::Tensor chosen_gradient;  ///< d loss.sum() / d chosen
  at::Tensor rejected_gradient;
  at::Tensor nll_gradient;  ///< d loss.sum() / d nll; undefined when `nll` is
  at::Tensor log_odds;      ///< orpo's lo_w - lo_l; undefined for other losses
};

/// Computed in double precision on the CPU from closed forms: B numbers, no graph. A batchwise loss (is_batchwise) is
/// over these B pairs; its value at a pair is that of the pair's rank, and the gradients are those of loss.sum().
/// Throws InputError: an unpaired loss, shapes that differ, an empty response, labels outside [0, 1], weights that are
/// negative or not finite, missing reference or NLL log-probs, options out of range.
PairLosses preference_loss(const PreferenceLoss& loss, const PairLogps& logps);

/// Mean of bco_pair's rewards beta a and beta b over the batch, whose running mean is PairLogps::reward_shift; 0 for
/// losses without shift.
double mean_reward(const PreferenceLoss& loss, const PairLogps& logps);

/// As preference_loss for losses of single completions (is_unpaired). Throws InputError likewise.
UnpairedLosses unpaired_loss(const PreferenceLoss& loss, const UnpairedLogps& logps);

namespace detail {

/// "0.8,0.2,1"; set_mix_weights throws InputError unless there is one finite weight >= 0 for each part.
std::string mix_weights(const LossMix& mix);
void set_mix_weights(LossMix& mix, const std::string& weights);

/// Gives `value` to the field `name` of a loss that has one.
template <class Value>
void share_field(PreferenceLoss& loss, std::string_view name, const Value& value);

}  // namespace detail

/// The weights, then every field of the parts once: what a part shares with others is set in all of them.
template <class Visitor, OptionsOf<LossMix> Options>
void visit_fields(Visitor&& visit, Options& mix) {
  std::string weights = detail::mix_weights(mix);
  const std::string before = weights;
  visit("weights", weights, "weight of each loss of a mix, with commas");
  if constexpr (!std::is_const_v<Options>) {
    if (weights != before) detail::set_mix_weights(mix, weights);
  }
  std::set<std::string> seen;
  for (auto& part : mix.losses) {
    std::visit(
        [&](auto& options) {
          if constexpr (!std::same_as<std::remove_cvref_t<decltype(options)>, LossMix>) {
            visit_fields(
                [&](const char* name, auto& field, const char* help) {
                  if (!seen.insert(name).second) return;
                  visit(name, field, help);
                  if constexpr (!std::is_const_v<Options>) {
                    for (WeightedLoss& other : mix.losses) detail::share_field(other.loss, name, field);
                  }
                },
                options);
          }
        },
        part.loss);
  }
}

/// The name, then the fields of the loss that is held; a visitor that writes another name changes the loss.
template <class Visitor, OptionsOf<PreferenceLoss> Loss>
void visit_fields(Visitor&& visit, Loss& loss) {
  std::string name = loss_name(loss);
  const std::string before = name;
  visit("name", name, "which loss, or several: dpo+sft");
  if constexpr (!std::is_const_v<Loss>) {
    if (name != before) loss = parse_loss(name);
  }
  std::visit([&](auto& options) { visit_fields(visit, options); }, loss);
}

template <class Value>
void detail::share_field(PreferenceLoss& loss, std::string_view name, const Value& value) {
  std::visit(
      [&](auto& options) {
        if constexpr (!std::same_as<std::remove_cvref_t<decltype(options)>, LossMix>) {
          visit_fields(
              [&](const char* own, auto& field, const char*) {
                if constexpr (std::same_as<std::remove_cvref_t<decltype(field)>, Value>) {
                  if (own == name) field = value;
                }
              },
              options);
        }
      },
      loss);
}

}  // namespace sao
