// SPDX-License-Identifier: Apache-2.0
#include "sao/loss/preference.h"

#include <fmt/format.h>

#include <utility>

#include "loss/pair_values.h"
#include "loss/tensors.h"
#include "sao/base/error.h"

namespace sao {
namespace {

using detail::PairValue;
using detail::Side;

constexpr const char* kWhere = "preference_loss";

// A batch as the closed forms see it.
struct Batch {
  std::vector<Side> chosen, rejected;
  std::vector<double> p;
  double reward_shift = 0.0;
};

// One pair under a loss that looks at one pair only.
template <class Loss>
PairValue value_of(const Loss& o, const Side& w, const Side& l, double p, double shift) {
  if constexpr (std::same_as<Loss, SppoSoft>) {
    return pair_value(o, w, l, p);
  } else {
    const auto hard = [&](const Side& x, const Side& y) {
      if constexpr (std::same_as<Loss, BcoPair>) {
        return pair_value(o, x, y, o.running_shift ? shift : 0.0);
      } else {
        return pair_value(o, x, y);
      }
    };
    const PairValue v = hard(w, l);
    if (p == 1.0) return v;
    const PairValue swapped = hard(l, w);
    const double q = 1.0 - p;
    return {p * v.loss + q * swapped.loss, p * v.d_chosen + q * swapped.d_rejected,
            p * v.d_rejected + q * swapped.d_chosen};
  }
}

// The loss of each pair without NLL terms and weights.
std::vector<PairValue> values_of(const PreferenceLoss& loss, const Batch& batch) {
  return std::visit(
      [&]<class Loss>(const Loss& o) -> std::vector<PairValue> {
        std::vector<PairValue> values(batch.chosen.size());
        if constexpr (std::same_as<Loss, LossMix>) {
          for (const auto& [part, weight] : o.losses) {
            const std::vector<PairValue> of_part = values_of(part, batch);
            for (std::size_t i = 0; i < values.size(); ++i) {
              values[i] = values[i] + PairValue{weight * of_part[i].loss, weight * of_part[i].d_chosen,
                                                weight * of_part[i].d_rejected};
            }
          }
        } else if constexpr (requires { batch_values(o, batch.chosen, batch.rejected); }) {
          values = batch_values(o, batch.chosen, batch.rejected);
        } else if constexpr (!detail::UnpairedFamily<Loss>) {
          for (std::size_t i = 0; i < values.size(); ++i) {
            values[i] = value_of(o, batch.chosen[i], batch.rejected[i], batch.p[i], batch.reward_shift);
          }
        }
        return values;
      },
      loss);
}

// What TRL logs as the reward of one side.
double reward(const PreferenceLoss& loss, const Side& side) {
  return std::visit(
      [&]<class Loss>(const Loss& o) {
        if constexpr (std::same_as<Loss, LossMix>) {
          return reward(o.losses.front().loss, side);
        } else if constexpr (detail::DpoFamily<Loss> || detail::UnpairedFamily<Loss>) {
          return o.beta * side.ratio();
        } else if constexpr (std::same_as<Loss, AlphaPO>) {
          return o.beta * detail::bent_reward(o.alpha, side).value;
        } else if constexpr (detail::kIsOneOf<Loss, SimPO, ORPO, TPOL>) {
          return o.beta * side.mean();
        } else if constexpr (detail::kIsOneOf<Loss, CPO, TPO>) {
          return o.beta * (o.form == "ipo" ? side.mean() : side.s);
        } else if constexpr (std::same_as<Loss, RRHF>) {
          return side.mean();
        } else {
          return side.s;
        }
      },
      loss);
}

// Weight of the chosen responses' NLL that is summed over tokens, not averaged.
double sum_nll_weight(const PreferenceLoss& loss) {
  return std::visit(
      []<class Loss>(const Loss& o) {
        double sum = 0.0;
        if constexpr (std::same_as<Loss, LossMix>) {
          for (const auto& [part, weight] : o.losses) sum += weight * sum_nll_weight(part);
        }
        if constexpr (requires { o.lambda; }) sum = o.lambda;
        return sum;
      },
      loss);
}

// beta of a reward-shifted part, 0 without one.
double shifted_beta(const PreferenceLoss& loss) {
  if (const LossMix* mix = std::get_if<LossMix>(&loss)) {
    for (const WeightedLoss& part : mix->losses) {
      if (uses_reward_shift(part.loss)) return shifted_beta(part.loss);
    }
  }
  const BcoPair* bco = std::get_if<BcoPair>(&loss);
  return bco != nullptr && bco->running_shift ? bco->beta : 0.0;
}

// Reads and checks the numbers of PairLogps.
struct Input {
  std::vector<double> sw, sl, nw, nl, rw, rl, nll, nll_lengths, p, weight;

  Input(const PreferenceLoss& loss, const PairLogps& logps) {
    const std::int64_t count = detail::check_sums(logps.chosen, kWhere, "chosen");
    const auto required = [&](const at::Tensor& tensor, const char* name) {
      if (!tensor.defined()) {
        throw InputError(fmt::format("preference_loss: {} is missing, expected for loss {}", name, loss_name(loss)));
      }
      return detail::to_doubles(tensor, kWhere, name, count);
    };
    const auto optional = [&](const at::Tensor& tensor, const char* name, double otherwise) {
      return tensor.defined() ? detail::to_doubles(tensor, kWhere, name, count)
                              : std::vector<double>(static_cast<std::size_t>(count), otherwise);
    };
    sw = required(logps.chosen, "chosen");
    sl = required(logps.rejected, "rejected");
    nw = required(logps.chosen_lengths, "chosen_lengths");
    nl = required(logps.rejected_lengths, "rejected_lengths");
    rw = rl = std::vector<double>(sw.size());
    if (needs_reference(loss)) {
      rw = required(logps.reference_chosen, "reference_chosen");
      rl = required(logps.reference_rejected, "reference_rejected");
    }
    if (logps.nll.defined() || (nll_weight(loss) > 0.0 && nll_of(loss) != NllOf::kChosen)) {
      nll = required(logps.nll, "nll");
      nll_lengths = required(logps.nll_lengths, "nll_lengths");
    } else {
      nll = sw;
      nll_lengths = nw;
    }
    p = optional(logps.p, "p", 1.0);
    weight = optional(logps.weight, "weight", 1.0);
    const bool sorted = sorts_pairs(loss);
    for (std::size_t i = 0; i < sw.size(); ++i) {
      if (!(nw[i] > 0.0) || !(nl[i] > 0.0) || !(nll_lengths[i] > 0.0)) {
        throw InputError(
            fmt::format("preference_loss: pair {} has lengths {} and {}, expected no empty response", i, nw[i], nl[i]));
      }
      if (!(p[i] >= 0.0 && p[i] <= 1.0)) {
        throw InputError(fmt::format("preference_loss: p of pair {} is {}, expected 0 to 1", i, p[i]));
      }
      detail::check_weight(weight[i], kWhere, "pair", static_cast<std::int64_t>(i));
      if (sorted && (p[i] != 1.0 || weight[i] != 1.0)) {
        throw InputError(
            fmt::format("preference_loss: pair {} has p {} and weight {}, expected 1 and 1: loss {} sorts its pairs", i,
                        p[i], weight[i], loss_name(loss)));
      }
    }
  }
};

double mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value / static_cast<double>(values.size());
  return sum;
}

}  // namespace

double mean_reward(const PreferenceLoss& loss, const PairLogps& logps) {
  const Input in(loss, logps);
  double sum = 0.0;
  for (std::size_t i = 0; i < in.sw.size(); ++i) {
    const double nw = logps.average_log_probs ? in.nw[i] : 1.0, nl = logps.average_log_probs ? in.nl[i] : 1.0;
    sum += (in.sw[i] - in.rw[i]) / nw + (in.sl[i] - in.rl[i]) / nl;
  }
  return shifted_beta(loss) * sum / (2.0 * static_cast<double>(in.sw.size()));
}

PairLosses preference_loss(const PreferenceLoss& loss, const PairLogps& logps) {
  validate(loss);
  if (is_unpaired(loss)) {
    throw InputError(
        fmt::format("preference_loss: {} is a loss of single completions, expected a loss of pairs", loss_name(loss)));
  }
  const Input in(loss, logps);
  const std::size_t count = in.sw.size();
  Batch batch{.p = in.p, .reward_shift = logps.reward_shift};
  for (std::size_t i = 0; i < count; ++i) {
    const auto side = [&](double s, double n, double r) {
      return logps.average_log_probs ? Side{s / n, 1.0, r / n} : Side{s, n, r};
    };
    batch.chosen.push_back(side(in.sw[i], in.nw[i], in.rw[i]));
    batch.rejected.push_back(side(in.sl[i], in.nl[i], in.rl[i]));
  }
  const std::vector<PairValue> pair_values = values_of(loss, batch);

  // The mean over pairs of n_i / mean(n) times a mean over n_i tokens is the mean over all tokens.
  const double mean_length = logps.mean_nll_length > 0.0 ? logps.mean_nll_length : mean(in.nll_lengths);
  const double token_nll = nll_weight(loss) / mean_length, sum_nll = sum_nll_weight(loss);
  const bool separate_nll = logps.nll.defined();
  const at::Tensor values = at::empty({7, static_cast<std::int64_t>(count)}, at::kDouble);
  auto out = values.accessor<double, 2>();
  for (std::size_t i = 0; i < count; ++i) {
    const auto row = static_cast<std::int64_t>(i);
    const PairValue& v = pair_values[i];
    const double slope_w = logps.average_log_probs ? v.d_chosen / in.nw[i] : v.d_chosen;
    const double slope_l = logps.average_log_probs ? v.d_rejected / in.nl[i] : v.d_rejected;
    const double weight = in.weight[i];
    out[0][row] = weight * (v.loss - token_nll * in.nll[i] - sum_nll * in.sw[i]);
    out[1][row] = reward(loss, batch.chosen[i]);
    out[2][row] = reward(loss, batch.rejected[i]);
    out[3][row] = weight * (slope_w - sum_nll - (separate_nll ? 0.0 : token_nll));
    out[4][row] = weight * slope_l;
    out[5][row] = separate_nll ? -weight * token_nll : 0.0;
    out[6][row] = detail::log_odds(batch.chosen[i]).value - detail::log_odds(batch.rejected[i]).value;
  }

  const std::vector<at::Tensor> rows = detail::like_input(values, logps.chosen);
  PairLosses result{rows[0], rows[1], rows[2], rows[3], rows[4], {}, {}};
  if (separate_nll) result.nll_gradient = rows[5];
  if (std::holds_alternative<ORPO>(loss)) result.log_odds = rows[6];
  result.loss = detail::with_slope(result.loss, result.chosen_gradient, logps.chosen);
  result.loss = detail::with_slope(result.loss, result.rejected_gradient, logps.rejected);
  if (separate_nll) result.loss = detail::with_slope(result.loss, result.nll_gradient, logps.nll);
  return result;
}

}  // namespace sao
