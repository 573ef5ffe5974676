// SPDX-License-Identifier: Apache-2.0
// What losses are called, what they need, which options are good.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "sao/base/error.h"
#include "sao/loss/preference.h"

namespace sao {
namespace {

constexpr std::size_t kSingleLosses = std::variant_size_v<PreferenceLoss> - 1;  // the last is the mix

template <std::size_t... kIndex>
std::array<PreferenceLoss, sizeof...(kIndex)> every_loss(std::index_sequence<kIndex...>) {
  return {PreferenceLoss(std::in_place_index<kIndex>)...};
}
auto every_loss() { return every_loss(std::make_index_sequence<kSingleLosses>()); }

/// Whether `rule` holds for the loss, or for any part of a mix.
template <class Rule>
bool any_part(const PreferenceLoss& loss, Rule&& rule) {
  if (const LossMix* mix = std::get_if<LossMix>(&loss)) {
    return std::any_of(mix->losses.begin(), mix->losses.end(),
                       [&](const WeightedLoss& part) { return any_part(part.loss, rule); });
  }
  return std::visit(
      [&]<class Loss>(const Loss& o) {
        if constexpr (std::same_as<Loss, LossMix>) {
          return false;
        } else {
          return static_cast<bool>(rule(o));
        }
      },
      loss);
}

std::string_view single_name(const PreferenceLoss& loss) {
  return std::visit(
      []<class Loss>(const Loss&) {
        if constexpr (std::same_as<Loss, LossMix>) {
          return std::string_view("mix");
        } else {
          return Loss::kName;
        }
      },
      loss);
}

/// Names that others use.
std::optional<PreferenceLoss> by_alias(std::string_view name) {
  static const std::map<std::string_view, std::function<PreferenceLoss()>> kAliases = {
      {"sigmoid", [] { return DPO{}; }},
      {"spin", [] { return DPO{}; }},
      {"sigmoid_norm", [] { return DPONorm{}; }},
      {"slic", [] { return Hinge{}; }},
      {"exo", [] { return ExoPair{}; }},
      {"nca", [] { return NcaPair{}; }},
      {"bco", [] { return BcoPair{.running_shift = true}; }},
      {"sppo", [] { return SppoHard{}; }},
      {"ipo_avg", [] { return IPO{}; }},
      {"ipo_sum", [] { return IPO{.average = false}; }},
      {"simpo_hinge", [] { return SimPO{.hinge = true}; }},
  };
  const auto found = kAliases.find(name);
  if (found == kAliases.end()) return std::nullopt;
  return found->second();
}

PreferenceLoss parse_single(std::string_view text) {
  std::string name(text);
  std::replace(name.begin(), name.end(), '-', '_');
  for (PreferenceLoss& loss : every_loss()) {
    if (single_name(loss) == name) return std::move(loss);
  }
  if (auto loss = by_alias(name)) return *std::move(loss);
  throw InputError(
      fmt::format("loss: \"{}\", expected one of {}, or several as \"dpo+sft\"", text, fmt::join(loss_names(), ", ")));
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

/// Between any of `separators`, blanks around them removed.
std::vector<std::string_view> split(std::string_view text, std::string_view separators) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find_first_of(separators);
    parts.push_back(trimmed(text.substr(0, end)));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

/// The weights of NLL terms, by their field.
template <class Loss>
std::vector<std::pair<std::string_view, double>> weights_of(const Loss& o) {
  std::vector<std::pair<std::string_view, double>> weights;
  if constexpr (requires { o.sft_weight; }) weights.emplace_back("sft_weight", o.sft_weight);
  if constexpr (requires { o.gold_weight; }) weights.emplace_back("gold_weight", o.gold_weight);
  if constexpr (requires { o.desirable_weight; }) weights.emplace_back("desirable_weight", o.desirable_weight);
  if constexpr (requires { o.undesirable_weight; }) weights.emplace_back("undesirable_weight", o.undesirable_weight);
  return weights;
}

/// The fields of a loss as text, to compare parts of a mix.
std::map<std::string, std::string> fields_of(const PreferenceLoss& loss) {
  std::map<std::string, std::string> fields;
  visit_leaves(
      [&](const std::string& path, const auto& field, const char*) { fields[path] = fmt::format("{}", field); }, loss);
  fields.erase("name");
  return fields;
}

void check_mix(const LossMix& mix, std::vector<std::string>& problems) {
  if (mix.losses.empty()) problems.emplace_back("no losses, expected at least one");
  std::map<std::string, std::string> shared;
  std::set<NllOf> covered;
  for (const auto& [part, weight] : mix.losses) {
    if (std::holds_alternative<LossMix>(part) || is_unpaired(part)) {
      problems.push_back(fmt::format("{} is part of a mix, expected losses of pairs", loss_name(part)));
      continue;
    }
    try {
      validate(part);
    } catch (const InputError& error) {
      problems.emplace_back(error.what());
    }
    if (!(weight >= 0.0) || !std::isfinite(weight)) {
      problems.push_back(fmt::format("the weight of {} is {}, expected 0 or more", loss_name(part), weight));
    }
    if (nll_weight(part) > 0.0) covered.insert(nll_of(part));
    for (const auto& [name, value] : fields_of(part)) {
      const auto [other, is_new] = shared.emplace(name, value);
      if (!is_new && other->second != value) {
        problems.push_back(
            fmt::format("{} is {} and {}, expected one value for all losses of a mix", name, other->second, value));
      }
    }
  }
  if (covered.size() > 1) problems.emplace_back("NLL terms of different tokens, expected one kind in a mix");
}

}  // namespace

namespace detail {

std::string mix_weights(const LossMix& mix) {
  std::vector<double> weights;
  for (const WeightedLoss& part : mix.losses) weights.push_back(part.weight);
  return fmt::format("{}", fmt::join(weights, ","));
}

void set_mix_weights(LossMix& mix, const std::string& weights) {
  const std::vector<std::string_view> texts = split(weights, ",");
  bool good = texts.size() == mix.losses.size();
  for (std::size_t i = 0; good && i < texts.size(); ++i) {
    const char* end = texts[i].data() + texts[i].size();
    const auto [stop, error] = std::from_chars(texts[i].data(), end, mix.losses[i].weight);
    good = error == std::errc{} && stop == end && mix.losses[i].weight >= 0.0 && std::isfinite(mix.losses[i].weight);
  }
  if (!good) {
    throw InputError(fmt::format("loss weights \"{}\", expected {} numbers with commas, 0 or more: one a loss", weights,
                                 mix.losses.size()));
  }
}

}  // namespace detail

std::string loss_name(const PreferenceLoss& loss) {
  const LossMix* mix = std::get_if<LossMix>(&loss);
  if (mix == nullptr) return std::string(single_name(loss));
  std::vector<std::string> names;
  for (const WeightedLoss& part : mix->losses) names.push_back(loss_name(part.loss));
  return fmt::format("{}", fmt::join(names, "+"));
}

std::vector<std::string_view> loss_names() {
  std::vector<std::string_view> names;
  for (const PreferenceLoss& loss : every_loss()) names.push_back(single_name(loss));
  return names;
}

PreferenceLoss parse_loss(std::string_view name) {
  const std::vector<std::string_view> parts = split(name, "+,");
  if (parts.size() == 1) return parse_single(parts[0]);
  LossMix mix;
  for (const std::string_view part : parts) mix.losses.push_back({.loss = parse_single(part)});
  return mix;
}

bool needs_reference(const PreferenceLoss& loss) {
  return any_part(loss,
                  []<class Loss>(const Loss&) { return detail::DpoFamily<Loss> || detail::UnpairedFamily<Loss>; });
}

bool is_unpaired(const PreferenceLoss& loss) {
  return any_part(loss, []<class Loss>(const Loss&) { return detail::UnpairedFamily<Loss>; });
}

bool uses_reward_shift(const PreferenceLoss& loss) {
  return any_part(loss, [](const auto& o) {
    if constexpr (requires { o.running_shift; }) return o.running_shift;
    return false;
  });
}

bool sorts_pairs(const PreferenceLoss& loss) {
  return any_part(loss, []<class Loss>(const Loss&) { return detail::kIsOneOf<Loss, Aot, AotUnpaired>; });
}

bool is_batchwise(const PreferenceLoss& loss) { return uses_reward_shift(loss) || sorts_pairs(loss); }

bool reads_soft_labels(const PreferenceLoss& loss) {
  return any_part(loss, []<class Loss>(const Loss&) { return std::same_as<Loss, SppoSoft>; });
}

bool logs_mean_logps(const PreferenceLoss& loss) {
  if (const LossMix* mix = std::get_if<LossMix>(&loss)) {
    return !mix->losses.empty() && logs_mean_logps(mix->losses.front().loss);
  }
  if (const CPO* cpo = std::get_if<CPO>(&loss)) return cpo->form == "ipo";
  if (const TPO* tpo = std::get_if<TPO>(&loss)) return tpo->form == "ipo";
  return std::holds_alternative<SimPO>(loss) || std::holds_alternative<AlphaPO>(loss) ||
         std::holds_alternative<ORPO>(loss) || std::holds_alternative<TPOL>(loss) || std::holds_alternative<RRHF>(loss);
}

NllOf nll_of(const PreferenceLoss& loss) {
  const bool gold = any_part(loss, [](const auto& o) {
    if constexpr (requires { o.gold_weight; }) return o.gold_weight > 0.0;
    return false;
  });
  const bool prompt = any_part(loss, [](const auto& o) {
    if constexpr (requires { o.nll_of_prompt; }) return o.nll_of_prompt && o.sft_weight > 0.0;
    return false;
  });
  return gold ? NllOf::kGold : prompt ? NllOf::kPromptAndChosen : NllOf::kChosen;
}

double nll_weight(const PreferenceLoss& loss) {
  if (const LossMix* mix = std::get_if<LossMix>(&loss)) {
    double sum = 0.0;
    for (const auto& [part, weight] : mix->losses) sum += weight * nll_weight(part);
    return sum;
  }
  return std::visit(
      [](const auto& o) {
        if constexpr (requires { o.sft_weight; }) return o.sft_weight;
        if constexpr (requires { o.gold_weight; }) return o.gold_weight;
        return 0.0;
      },
      loss);
}

void validate(const PreferenceLoss& loss) {
  std::vector<std::string> problems;
  const auto need = [&](bool good, std::string_view field, auto found, std::string_view expected) {
    if (!good) problems.push_back(fmt::format("{} is {}, expected {}", field, found, expected));
  };
  std::visit(
      [&]<class Loss>(const Loss& o) {
        if constexpr (std::same_as<Loss, LossMix>) check_mix(o, problems);
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
        for (const auto& [name, weight] : weights_of(o)) {
          need(weight >= 0.0 && std::isfinite(weight), name, weight, "0 or more");
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
  if (const LossMix* mix = std::get_if<LossMix>(&loss)) {
    for (const WeightedLoss& part : mix->losses) {
      for (std::string& sentence : unusual_settings(part.loss)) found.push_back(std::move(sentence));
    }
  }
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
  if (const TPOL* o = std::get_if<TPOL>(&loss); o != nullptr && o->beta * o->gamma_beta_ratio > 16.0) {
    note("gamma_beta_ratio", o->gamma_beta_ratio, "a margin above 16 with this beta (it is gamma divided by beta)");
  }
  return found;
}

}  // namespace sao
