// SPDX-License-Identifier: Apache-2.0
#include "sao/loss/preference.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "sao/base/error.h"

namespace sao {
namespace {

// One pair. The two sides of a response: its sum s, length n and reference sum r.
struct Side {
  double s = 0.0, n = 1.0, r = 0.0;
  double mean() const { return s / n; }
  double ratio() const { return s - r; }
};

// Value and derivatives with respect to s_w and s_l.
struct PairValue {
  double loss = 0.0, d_chosen = 0.0, d_rejected = 0.0;
};

// A function value with its derivative.
struct Slope {
  double value = 0.0, slope = 0.0;
};

double sigmoid(double x) { return x >= 0.0 ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x) / (1.0 + std::exp(x)); }
double log_sigmoid(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }
/// -log sg(x)
Slope logistic(double x) { return {-log_sigmoid(x), -sigmoid(-x)}; }
/// -(1 - eps) log sg(x) - eps log sg(-x)
Slope smoothed_logistic(double x, double eps) {
  return {-(1.0 - eps) * log_sigmoid(x) - eps * log_sigmoid(-x), -(1.0 - eps) * sigmoid(-x) + eps * sigmoid(x)};
}
Slope hinge(double x) { return x < 1.0 ? Slope{1.0 - x, -1.0} : Slope{}; }
Slope square(double x) { return {x * x, 2.0 * x}; }
/// log(1 - exp(x)) for x < 0, without cancellation near 0 or far from it.
double log1mexp(double x) { return x < -std::numbers::ln2 ? std::log1p(-std::exp(x)) : std::log(-std::expm1(x)); }

Slope link(const FDivergence& f, double a) {
  if (f.type == "forward_kl") return {1.0 - std::exp(-a), std::exp(-a)};
  if (f.type == "js_divergence") return {std::numbers::ln2 + log_sigmoid(a), sigmoid(-a)};
  if (f.type == "alpha_divergence" && std::abs(f.alpha - 1.0) >= 1e-6) {
    const double c = f.alpha - 1.0, exponent = std::min(c * a, 80.0);
    return {std::expm1(exponent) / c, c * a < 80.0 ? std::exp(exponent) : 0.0};
  }
  return {a, 1.0};
}

/// outer(scale * (w - l)), where w and l have slopes with respect to the sums.
template <class Outer>
PairValue of_margin(Slope w, Slope l, double scale, double shift, Outer&& outer) {
  const Slope value = outer(scale * (w.value - l.value) + shift);
  return {value.value, value.slope * scale * w.slope, -value.slope * scale * l.slope};
}

PairValue operator+(PairValue a, PairValue b) {
  return {a.loss + b.loss, a.d_chosen + b.d_chosen, a.d_rejected + b.d_rejected};
}
PairValue of_chosen(Slope v) { return {v.value, v.slope, 0.0}; }
PairValue of_rejected(Slope v) { return {v.value, 0.0, v.slope}; }

Slope mean_of(const Side& side) { return {side.mean(), 1.0 / side.n}; }
Slope sum_of(const Side& side) { return {side.s, 1.0}; }
Slope ratio_of(const Side& side) { return {side.ratio(), 1.0}; }
Slope link_of(const FDivergence& f, const Side& side) { return link(f, side.ratio()); }
Slope mean_link_of(const FDivergence& f, const Side& side) {
  const Slope value = link(f, side.ratio());
  return {value.value / side.n, value.slope / side.n};
}

// pair_value of each loss: the formula of its struct without SFT term.
PairValue pair_value(const SimPO& o, const Side& w, const Side& l) {
  return of_margin(mean_of(w), mean_of(l), o.beta, -o.beta * o.gamma_beta_ratio,
                   [&](double z) { return o.hinge ? hinge(z) : smoothed_logistic(z, o.label_smoothing); });
}

PairValue pair_value(const DPO& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, logistic);
}

PairValue pair_value(const CDPO& o, const Side& w, const Side& l) {
  return of_margin(ratio_of(w), ratio_of(l), o.beta, 0.0,
                   [&](double z) { return smoothed_logistic(z, o.label_smoothing); });
}

PairValue pair_value(const RobustDPO& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, [&](double z) {
    const double eps = o.label_smoothing, norm = 1.0 / (1.0 - 2.0 * eps);
    return Slope{(-(1.0 - eps) * log_sigmoid(z) + eps * log_sigmoid(-z)) * norm,
                 (-(1.0 - eps) * sigmoid(-z) - eps * sigmoid(z)) * norm};
  });
}

PairValue pair_value(const DPONorm& o, const Side& w, const Side& l) {
  return of_margin(mean_link_of(o.f_divergence, w), mean_link_of(o.f_divergence, l), o.beta, 0.0, logistic);
}

PairValue pair_value(const RDPO& o, const Side& w, const Side& l) {
  return of_margin(ratio_of(w), ratio_of(l), o.beta, o.alpha * (w.n - l.n), logistic);
}

PairValue pair_value(const Hinge& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, hinge);
}

PairValue pair_value(const IPO& o, const Side& w, const Side& l) {
  const double target = 1.0 / (2.0 * o.beta);
  return o.average ? of_margin(mean_link_of(o.f_divergence, w), mean_link_of(o.f_divergence, l), 1.0, -target, square)
                   : of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), 1.0, -target, square);
}

PairValue pair_value(const ExoPair& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, [&](double z) {
    const double q = sigmoid(z), log_q = log_sigmoid(z), log_1q = log_sigmoid(-z);
    const double log_target = std::log1p(-o.label_smoothing), log_1target = std::log(o.label_smoothing);
    // d/dz of q (log q - t) + (1 - q) (log(1 - q) - u) is q (1 - q) ((log q - t) - (log(1 - q) - u)).
    return Slope{q * (log_q - log_target) + sigmoid(-z) * (log_1q - log_1target),
                 q * sigmoid(-z) * ((log_q - log_target) - (log_1q - log_1target))};
  });
}

PairValue pair_value(const NcaPair& o, const Side& w, const Side& l) {
  const double x = o.beta * w.ratio(), y = o.beta * l.ratio();
  const Slope up = logistic(x), down = logistic(-x), other = logistic(-y);
  return of_chosen({up.value + 0.5 * down.value, o.beta * (up.slope - 0.5 * down.slope)}) +
         of_rejected({0.5 * other.value, -0.5 * o.beta * other.slope});
}

PairValue pair_value(const BcoPair& o, const Side& w, const Side& l) {
  const Slope up = logistic(o.beta * w.ratio()), down = logistic(-o.beta * l.ratio());
  return of_chosen({up.value, o.beta * up.slope}) + of_rejected({down.value, -o.beta * down.slope});
}

PairValue pair_value(const SppoHard& o, const Side& w, const Side& l) {
  const double target = 1.0 / (2.0 * o.beta);
  return of_chosen(square(w.ratio() - target)) + of_rejected(square(l.ratio() + target));
}

PairValue pair_value(const ApoZero& o, const Side& w, const Side& l) {
  const double qw = sigmoid(o.beta * w.ratio()), ql = sigmoid(o.beta * l.ratio());
  return of_chosen({1.0 - qw, -o.beta * qw * (1.0 - qw)}) + of_rejected({ql, o.beta * ql * (1.0 - ql)});
}

PairValue pair_value(const ApoDown& o, const Side& w, const Side& l) {
  const double qw = sigmoid(o.beta * w.ratio());
  return of_chosen({qw, o.beta * qw * (1.0 - qw)}) + of_margin(ratio_of(w), ratio_of(l), o.beta, 0.0, [](double z) {
           return Slope{1.0 - sigmoid(z), -sigmoid(z) * sigmoid(-z)};
         });
}

PairValue pair_value(const DiscoPOP& o, const Side& w, const Side& l) {
  return of_margin(link_of(o.f_divergence, w), link_of(o.f_divergence, l), o.beta, 0.0, [&](double z) {
    const double q = sigmoid(z / o.tau), q_slope = q * sigmoid(-z / o.tau) / o.tau, e = std::exp(-z);
    const Slope log_part = logistic(z);
    return Slope{(1.0 - q) * log_part.value + q * e,
                 -q_slope * log_part.value + (1.0 - q) * log_part.slope + q_slope * e - q * e};
  });
}

PairValue pair_value(const Sft&, const Side&, const Side&) { return {}; }

PairValue pair_value(const CPO& o, const Side& w, const Side& l) {
  if (o.form == "ipo") return of_margin(mean_of(w), mean_of(l), 1.0, -1.0 / (2.0 * o.beta), square);
  return of_margin(sum_of(w), sum_of(l), o.beta, 0.0,
                   [&](double z) { return o.form == "hinge" ? hinge(z) : smoothed_logistic(z, o.label_smoothing); });
}

Slope bent_reward(double alpha, const Side& side) {
  const double m = side.mean();
  if (alpha == 0.0) return {m, 1.0 / side.n};
  return {-std::expm1(-alpha * m) / alpha, std::exp(-alpha * m) / side.n};
}

PairValue pair_value(const AlphaPO& o, const Side& w, const Side& l) {
  return of_margin(bent_reward(o.alpha, w), bent_reward(o.alpha, l), o.beta, -o.beta * o.gamma_beta_ratio,
                   [&](double z) { return smoothed_logistic(z, o.label_smoothing); });
}

// log(p / (1 - p)) with p = exp(m); d/dm = 1 / (1 - p). A certain response has no finite odds: p stops at 1 - 1e-9.
Slope log_odds(const Side& side) {
  const double m = std::min(side.mean(), -1e-9);
  return {m - log1mexp(m), -1.0 / std::expm1(m) / side.n};
}

PairValue pair_value(const ORPO& o, const Side& w, const Side& l) {
  PairValue value = of_margin(log_odds(w), log_odds(l), 1.0, 0.0, logistic);
  return {o.beta * value.loss, o.beta * value.d_chosen, o.beta * value.d_rejected};
}

PairValue pair_value(const SlicHf& o, const Side& w, const Side& l) {
  // max(0, delta - margin) = delta-shifted hinge with slope -1.
  return of_margin(sum_of(w), sum_of(l), 1.0, 1.0 - o.delta, hinge);
}

PairValue pair_value(const RRHF&, const Side& w, const Side& l) {
  return of_margin(mean_of(w), mean_of(l), 1.0, 1.0, hinge);
}

template <class Loss>
constexpr bool kNeedsReference = detail::DpoFamily<Loss>;

// What TRL logs as the reward of one side.
template <class Loss>
double reward(const Loss& o, const Side& side) {
  if constexpr (kNeedsReference<Loss>) {
    return o.beta * side.ratio();
  } else if constexpr (std::same_as<Loss, AlphaPO>) {
    return o.beta * bent_reward(o.alpha, side).value;
  } else if constexpr (std::same_as<Loss, SimPO> || std::same_as<Loss, ORPO>) {
    return o.beta * side.mean();
  } else if constexpr (std::same_as<Loss, CPO>) {
    return o.beta * (o.form == "ipo" ? side.mean() : side.s);
  } else if constexpr (std::same_as<Loss, RRHF>) {
    return side.mean();
  } else {
    return side.s;
  }
}

template <class Loss>
double sft_weight(const Loss& o) {
  if constexpr (requires { o.sft_weight; }) return o.sft_weight;
  return 0.0;
}

template <class Loss>
double sequence_nll_weight(const Loss& o) {
  if constexpr (requires { o.lambda; }) return o.lambda;
  return 0.0;
}

std::vector<double> to_doubles(const at::Tensor& tensor, const char* name, std::int64_t count) {
  if (tensor.dim() != 1 || tensor.size(0) != count) {
    throw InputError(
        fmt::format("preference_loss: {} [{}], expected [{}] as chosen", name, fmt::join(tensor.sizes(), ", "), count));
  }
  const at::Tensor values = tensor.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* data = values.const_data_ptr<double>();
  return {data, data + count};
}

template <std::size_t... kIndex>
std::array<PreferenceLoss, sizeof...(kIndex)> every_loss(std::index_sequence<kIndex...>) {
  return {PreferenceLoss(std::in_place_index<kIndex>)...};
}
auto every_loss() { return every_loss(std::make_index_sequence<std::variant_size_v<PreferenceLoss>>()); }

}  // namespace

std::string_view loss_name(const PreferenceLoss& loss) {
  return std::visit([](const auto& o) { return o.kName; }, loss);
}

std::vector<std::string_view> loss_names() {
  std::vector<std::string_view> names;
  for (const PreferenceLoss& loss : every_loss()) names.push_back(loss_name(loss));
  return names;
}

PreferenceLoss parse_loss(std::string_view name) {
  if (name == "sigmoid") name = DPO::kName;
  if (name == "sigmoid_norm") name = DPONorm::kName;
  for (const PreferenceLoss& loss : every_loss()) {
    if (loss_name(loss) == name) return loss;
  }
  throw InputError(fmt::format("loss: \"{}\", expected one of {}", name, fmt::join(loss_names(), ", ")));
}

bool needs_reference(const PreferenceLoss& loss) {
  return std::visit([]<class Loss>(const Loss&) { return kNeedsReference<Loss>; }, loss);
}

bool logs_mean_logps(const PreferenceLoss& loss) {
  if (const CPO* cpo = std::get_if<CPO>(&loss)) return cpo->form == "ipo";
  return std::holds_alternative<SimPO>(loss) || std::holds_alternative<AlphaPO>(loss) ||
         std::holds_alternative<ORPO>(loss) || std::holds_alternative<RRHF>(loss);
}

void validate(const PreferenceLoss& loss) {
  std::vector<std::string> problems;
  const auto need = [&](bool good, std::string_view field, auto found, std::string_view expected) {
    if (!good) problems.push_back(fmt::format("{} is {}, expected {}", field, found, expected));
  };
  std::visit(
      [&]<class Loss>(const Loss& o) {
        if constexpr (requires { o.beta; }) need(o.beta > 0.0 && std::isfinite(o.beta), "beta", o.beta, "above 0");
        if constexpr (requires { o.label_smoothing; }) {
          const double eps = o.label_smoothing;
          if constexpr (std::same_as<Loss, ExoPair>) {
            need(eps > 0.0 && eps < 0.5, "label_smoothing", eps, "above 0 and below 0.5");
          } else {
            need(eps >= 0.0 && eps < 0.5, "label_smoothing", eps, "0 to below 0.5");
          }
        }
        if constexpr (requires { o.gamma_beta_ratio; }) {
          need(std::isfinite(o.gamma_beta_ratio), "gamma_beta_ratio", o.gamma_beta_ratio, "a finite number");
        }
        if constexpr (requires { o.hinge; }) {
          need(!o.hinge || o.label_smoothing == 0.0, "label_smoothing", o.label_smoothing, "0 with the hinge form");
        }
        if constexpr (requires { o.sft_weight; }) {
          need(o.sft_weight >= 0.0 && std::isfinite(o.sft_weight), "sft_weight", o.sft_weight, "0 or more");
        }
        if constexpr (requires { o.lambda; }) {
          need(o.lambda >= 0.0 && std::isfinite(o.lambda), "lambda", o.lambda, "0 or more");
        }
        if constexpr (requires { o.alpha; }) need(std::isfinite(o.alpha), "alpha", o.alpha, "a finite number");
        if constexpr (requires { o.delta; }) need(std::isfinite(o.delta), "delta", o.delta, "a finite number");
        if constexpr (requires { o.tau; }) need(o.tau > 0.0 && std::isfinite(o.tau), "tau", o.tau, "above 0");
        if constexpr (requires { o.form; }) {
          need(o.form == "sigmoid" || o.form == "hinge" || o.form == "ipo", "form", '"' + o.form + '"',
               "sigmoid, hinge or ipo");
          need(o.form == "sigmoid" || o.label_smoothing == 0.0, "label_smoothing", o.label_smoothing,
               "0 unless the form is sigmoid");
        }
        if constexpr (requires { o.f_divergence; }) {
          const std::string& type = o.f_divergence.type;
          need(type == "reverse_kl" || type == "forward_kl" || type == "js_divergence" || type == "alpha_divergence",
               "f_divergence.type", '"' + type + '"', "reverse_kl, forward_kl, js_divergence or alpha_divergence");
          need(std::isfinite(o.f_divergence.alpha), "f_divergence.alpha", o.f_divergence.alpha, "a finite number");
        }
      },
      loss);
  if (!problems.empty()) throw InputError(fmt::format("loss {}: {}", loss_name(loss), fmt::join(problems, "; ")));
}

std::vector<std::string> unusual_settings(const PreferenceLoss& loss) {
  std::vector<std::string> found;
  const auto note = [&](std::string_view field, double value, std::string_view why) {
    found.push_back(fmt::format("loss {}: {} is {}, {}", loss_name(loss), field, value, why));
  };
  const auto mean_based = [&](double beta, double ratio) {
    if (beta < 1.0) {
      note("beta", beta, "published runs use 2 to 10 (it scales mean log-probs; values near 0.1 are DPO's)");
    }
    if (beta > 30.0) note("beta", beta, "published runs use 2 to 10");
    if (ratio > 1.6) {
      note("gamma_beta_ratio", ratio, "published runs use 0 to 1.6 (it is gamma divided by beta, not gamma)");
    }
    if (ratio < 0.0) note("gamma_beta_ratio", ratio, "a negative margin asks for the chosen to be less likely");
  };
  if (const SimPO* o = std::get_if<SimPO>(&loss)) mean_based(o->beta, o->gamma_beta_ratio);
  if (const AlphaPO* o = std::get_if<AlphaPO>(&loss)) mean_based(o->beta, o->gamma_beta_ratio);
  if (const DPO* o = std::get_if<DPO>(&loss); o != nullptr && o->beta > 1.0) {
    note("beta", o->beta, "published runs use 0.01 to 0.5 (it scales summed log-probs; values above 1 are SimPO's)");
  }
  if (const SppoHard* o = std::get_if<SppoHard>(&loss); o != nullptr && o->beta > 0.05) {
    note("beta", o->beta, "published runs use 0.001 (1 / eta)");
  }
  return found;
}

PairLosses preference_loss(const PreferenceLoss& loss, const PairLogps& logps) {
  validate(loss);
  if (!logps.chosen.defined() || logps.chosen.dim() != 1 || logps.chosen.size(0) == 0 ||
      !logps.chosen.is_floating_point()) {
    throw InputError("preference_loss: chosen is not a vector of log-prob sums, expected [B] floating point, B > 0");
  }
  const std::int64_t count = logps.chosen.size(0);
  const auto required = [&](const at::Tensor& tensor, const char* name) {
    if (!tensor.defined()) {
      throw InputError(fmt::format("preference_loss: {} is missing, expected for loss {}", name, loss_name(loss)));
    }
    return to_doubles(tensor, name, count);
  };
  const auto optional = [&](const at::Tensor& tensor, const char* name, double otherwise) {
    return tensor.defined() ? to_doubles(tensor, name, count) : std::vector<double>(count, otherwise);
  };
  const std::vector<double> sw = required(logps.chosen, "chosen"), sl = required(logps.rejected, "rejected");
  const std::vector<double> nw = required(logps.chosen_lengths, "chosen_lengths");
  const std::vector<double> nl = required(logps.rejected_lengths, "rejected_lengths");
  std::vector<double> rw(count), rl(count);
  if (needs_reference(loss)) {
    rw = required(logps.reference_chosen, "reference_chosen");
    rl = required(logps.reference_rejected, "reference_rejected");
  }
  const std::vector<double> p = optional(logps.p, "p", 1.0), weight = optional(logps.weight, "weight", 1.0);
  double mean_length = 0.0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (!(nw[i] > 0.0) || !(nl[i] > 0.0)) {
      throw InputError(
          fmt::format("preference_loss: pair {} has lengths {} and {}, expected no empty response", i, nw[i], nl[i]));
    }
    if (!(p[i] >= 0.0 && p[i] <= 1.0)) {
      throw InputError(fmt::format("preference_loss: p of pair {} is {}, expected 0 to 1", i, p[i]));
    }
    if (!(weight[i] >= 0.0 && std::isfinite(weight[i]))) {
      throw InputError(fmt::format("preference_loss: weight of pair {} is {}, expected 0 or more", i, weight[i]));
    }
    mean_length += nw[i] / static_cast<double>(count);
  }
  if (logps.mean_chosen_length > 0.0) mean_length = logps.mean_chosen_length;

  const at::Tensor values = at::empty({5, count}, at::kDouble);
  auto out = values.accessor<double, 2>();
  std::visit(
      [&](const auto& o) {
        const double sft = sft_weight(o) / mean_length + sequence_nll_weight(o);
        for (std::int64_t i = 0; i < count; ++i) {
          const Side w{sw[i], nw[i], rw[i]}, l{sl[i], nl[i], rl[i]};
          PairValue v = pair_value(o, w, l);
          if (p[i] != 1.0) {
            const PairValue swapped = pair_value(o, l, w);
            const double q = 1.0 - p[i];
            v = {p[i] * v.loss + q * swapped.loss, p[i] * v.d_chosen + q * swapped.d_rejected,
                 p[i] * v.d_rejected + q * swapped.d_chosen};
          }
          out[0][i] = weight[i] * (v.loss - sft * sw[i]);
          out[1][i] = weight[i] * (v.d_chosen - sft);
          out[2][i] = weight[i] * v.d_rejected;
          out[3][i] = reward(o, w);
          out[4][i] = reward(o, l);
        }
      },
      loss);

  const auto dtype = logps.chosen.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto rows = values.to(logps.chosen.device(), dtype).unbind(0);
  PairLosses result{rows[0], rows[3], rows[4], rows[1], rows[2]};
  if (at::GradMode::is_enabled() && (logps.chosen.requires_grad() || logps.rejected.requires_grad())) {
    // The value is the loss, the derivative the closed form: x - x.detach() is 0 with slope 1.
    result.loss = result.loss + result.chosen_gradient * (logps.chosen - logps.chosen.detach()) +
                  result.rejected_gradient * (logps.rejected - logps.rejected.detach());
  }
  return result;
}

}  // namespace sao
