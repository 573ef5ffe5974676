// SPDX-License-Identifier: Apache-2.0
// Losses of pairs against a reference model: functions of a = s_w - reference_w and b = s_l - reference_l.
// Symbols: preference.h.
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>

#include "sao/base/options.h"

namespace sao {

/// The link f of f-DPO (Wang et al. 2023): losses use f(a), f(b) in place of a, b.
struct FDivergence {
  /// "reverse_kl": a. "forward_kl": 1 - exp(-a). "js_divergence": log 2 + log sg(a).
  /// "alpha_divergence": (exp((alpha - 1) a) - 1) / (alpha - 1), its exponent at most 80.
  std::string type = "reverse_kl";
  double alpha = 0.5;  ///< of alpha_divergence; 1 is reverse_kl
};

/// Direct preference optimization: -log sg(beta (f(a) - f(b))).
/// Follows: Rafailov et al. 2023, eq. 7. TRL: DPOTrainer "sigmoid"; beta is TRL's default.
/// Also SPIN's loss (Chen et al. 2024, eq. 4.7 with the logistic loss), which differs in the data alone: chosen is the
/// answer of the fine-tuning set, rejected the model's own, and the reference the last round's model. Name: "spin".
/// Trap: TRL 1.16 ignores label_smoothing here; the smoothed loss is cdpo.
struct DPO {
  static constexpr std::string_view kName = "dpo";
  double beta = 0.1;
  FDivergence f_divergence = {};
};

/// Conservative DPO: -(1 - eps) log sg(beta (a - b)) - eps log sg(-beta (a - b)).
/// Follows: Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO". Not in TRL 1.16;
/// LLaMA-Factory: "sigmoid". Trap: biased towards a small margin; `robust` is the unbiased form.
struct CDPO {
  static constexpr std::string_view kName = "cdpo";
  double beta = 0.1;
  double label_smoothing = 0.1;  ///< probability that a label is flipped; LLaMA-Factory's documentation
};

/// Robust DPO: [-(1 - eps) log sg(beta (f(a) - f(b))) + eps log sg(-beta (f(a) - f(b)))] / (1 - 2 eps).
/// Follows: Chowdhury et al. 2024, "Provably robust DPO". TRL: DPOTrainer "robust"; defaults are TRL's.
/// Trap: unbounded below for eps > 0: pairs that are already well separated go on being pulled apart.
struct RobustDPO {
  static constexpr std::string_view kName = "robust";
  double beta = 0.1;
  double label_smoothing = 0.0;
  FDivergence f_divergence = {};
};

/// Length-normalised DPO: -log sg(beta (f(a) / n_w - f(b) / n_l)).
/// TRL: DPOTrainer "sigmoid_norm". Trap: beta acts on means, so values near 0.1 hardly move the model.
struct DPONorm {
  static constexpr std::string_view kName = "dpo_norm";
  double beta = 0.1;  ///< TRL's default
  FDivergence f_divergence = {};
};

/// DPO with a length penalty: -log sg(beta (a - b) + alpha (n_w - n_l)).
/// Follows: Park et al. 2024, "Disentangling length from quality in DPO", as in Meng et al. 2024, table 3. Not in TRL.
struct RDPO {
  static constexpr std::string_view kName = "r_dpo";
  double beta = 0.1;
  double alpha = 0.05;  ///< reward a token is worth; smallest value of Meng et al.'s search
};

/// Hinge on the DPO margin: max(0, 1 - beta (f(a) - f(b))).
/// Follows: Zhao et al. 2023 (SLiC), Liu et al. 2023 (RSO). TRL: DPOTrainer "hinge".
/// Trap: with a reference; the reference-free form of SLiC-HF is slic_hf.
struct Hinge {
  static constexpr std::string_view kName = "hinge";
  double beta = 0.1;  ///< TRL's default
  FDivergence f_divergence = {};
};

/// Identity preference optimization: (h - 1 / (2 beta))^2, h = f(a) / n_w - f(b) / n_l, or f(a) - f(b) of sums.
/// Follows: Azar et al. 2023, eq. 17. TRL: DPOTrainer "ipo" (averages). beta is the paper's tau; default TRL's.
/// Trap: libraries differ between averages and sums; beta means another thing under each.
struct IPO {
  static constexpr std::string_view kName = "ipo";
  double beta = 0.1;
  bool average = true;  ///< per-token averages (TRL, the authors); false = sums (OpenRLHF, torchtune)
  FDivergence f_divergence = {};
};

/// Efficient exact optimization on pairs: with q = sg(beta (f(a) - f(b))),
/// q (log q - log(1 - eps)) + (1 - q) (log(1 - q) - log eps).
/// Follows: Ji et al. 2024, eq. 16. TRL: DPOTrainer "exo_pair". Trap: eps must be positive; TRL's own default 0 fails.
struct ExoPair {
  static constexpr std::string_view kName = "exo_pair";
  double beta = 0.1;
  double label_smoothing = 0.001;  ///< the paper's
  FDivergence f_divergence = {};
};

/// Noise contrastive alignment on pairs: -log sg(beta a) - log sg(-beta a) / 2 - log sg(-beta b) / 2.
/// Follows: Chen et al. 2024, "Noise contrastive alignment". TRL: DPOTrainer "nca_pair".
/// Trap: not a function of the margin: it also keeps the chosen likelihood from falling.
struct NcaPair {
  static constexpr std::string_view kName = "nca_pair";
  double beta = 0.1;  ///< TRL's default
};

/// Binary classifier optimization on pairs: -log sg(beta a - delta) - log sg(-(beta b - delta)).
/// Follows: Jung et al. 2024, eq. 8 and 11. delta = 0 is TRL 1.16's DPOTrainer "bco_pair". With `running_shift` it is
/// the paper's reward shift: the running mean of the rewards beta a and beta b (the mean over all steps so far, this
/// one included, of each batch's mean; no gradient), as older TRL and LLaMA-Factory have it. Trap: with a shift the
/// loss depends on what has been trained on before; the trainer keeps it in its checkpoints.
struct BcoPair {
  static constexpr std::string_view kName = "bco_pair";
  double beta = 0.1;           ///< TRL's default
  bool running_shift = false;  ///< delta is the running mean of the rewards; the name "bco" sets it
};

/// Self-play preference optimization: (a - 1 / (2 beta))^2 + (b + 1 / (2 beta))^2; a soft label p gives the paper's
/// (a - (p - 1/2) / beta)^2 + (b + (p - 1/2) / beta)^2 up to a constant (its exact value: sppo_soft).
/// Follows: Wu et al. 2024, eq. 4.7. TRL: DPOTrainer "sppo_hard". beta = 1 / eta; the paper's eta is 1000.
struct SppoHard {
  static constexpr std::string_view kName = "sppo_hard";
  double beta = 0.001;
};

/// Self-play preference optimization with the judge's probability p that chosen is better:
/// (a - (p - 1/2) / beta)^2 + (b + (p - 1/2) / beta)^2.
/// Follows: Wu et al. 2024, eq. 4.7 with P = p. Not in TRL. Always reads the pairs' p, with soft_labels or without.
/// Trap: at p = 1/2 both responses are held at the reference, which is a loss too: near-ties pull the model back.
struct SppoSoft {
  static constexpr std::string_view kName = "sppo_soft";
  double beta = 0.001;  ///< 1 / eta, as sppo_hard
};

/// Alignment by optimal transport on paired samples: with delta = sort(s_w - s_l) - sort(reference_w - reference_l),
/// each sorted over the batch, -(1 - eps) log sg(beta delta) - eps log sg(-beta delta). Follows: Melnyk et al. 2024,
/// "Distributional preference alignment via optimal transport". TRL: DPOTrainer "aot". The batch is what one call of
/// preference_loss is given; the trainer gives it the whole optimizer batch, whatever the micro-batches (one more
/// forward pass without gradients when there are several). Trap: TRL sorts over each device's micro-batch, so its loss
/// changes with the accumulation. Neither weights nor soft labels: InputError.
struct Aot {
  static constexpr std::string_view kName = "aot";
  double beta = 0.1;  ///< defaults TRL's
  double label_smoothing = 0.0;
};

/// The same for samples that need not be of one prompt: delta = sort(a) - sort(b). Follows: Melnyk et al. 2024. TRL:
/// DPOTrainer "aot_unpaired". Trap: rows are pairs nevertheless, as in TRL; which response belongs to which is not
/// used.
struct AotUnpaired {
  static constexpr std::string_view kName = "aot_unpaired";
  double beta = 0.1;
  double label_smoothing = 0.0;
};

/// Anchored preference optimization, chosen better than the model: 1 - sg(beta a) + sg(beta b).
/// Follows: D'Oosterlinck et al. 2024, eq. 7. TRL: DPOTrainer "apo_zero".
struct ApoZero {
  static constexpr std::string_view kName = "apo_zero";
  double beta = 0.1;
};

/// Anchored preference optimization, chosen worse than the model: sg(beta a) + 1 - sg(beta (a - b)).
/// Follows: D'Oosterlinck et al. 2024, eq. 8. TRL: DPOTrainer "apo_down". Trap: lowers the chosen likelihood by design.
struct ApoDown {
  static constexpr std::string_view kName = "apo_down";
  double beta = 0.1;
};

/// The loss found by DiscoPOP: with l = beta (f(a) - f(b)), q = sg(l / tau): (1 - q) (-log sg(l)) + q exp(-l).
/// Follows: Lu et al. 2024, eq. 5. TRL: DPOTrainer "discopop"; defaults TRL's. Trap: not convex, has a local optimum
/// at negative margins.
struct DiscoPOP {
  static constexpr std::string_view kName = "discopop";
  double beta = 0.1;
  double tau = 0.05;
  FDivergence f_divergence = {};
};

namespace detail {
inline constexpr const char* kBetaHelp = "strength: scale of the log-probs that are compared";
inline constexpr const char* kSmoothingHelp = "probability that a label is wrong";

template <class T, class... Others>
inline constexpr bool kIsOneOf = (std::same_as<T, Others> || ...);

template <class T>
concept DpoFamily = kIsOneOf<T, DPO, CDPO, RobustDPO, DPONorm, RDPO, Hinge, IPO, ExoPair, NcaPair, BcoPair, SppoHard,
                             SppoSoft, Aot, AotUnpaired, ApoZero, ApoDown, DiscoPOP>;
}  // namespace detail

template <class Visitor, OptionsOf<FDivergence> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("type", options.type, "reverse_kl, forward_kl, js_divergence or alpha_divergence");
  visit("alpha", options.alpha, "exponent of alpha_divergence");
}

/// The losses against a reference differ in few fields.
template <class Visitor, class Options>
requires detail::DpoFamily<std::remove_const_t<Options>>
void visit_fields(Visitor&& visit, Options& options) {
  visit("beta", options.beta, detail::kBetaHelp);
  if constexpr (requires { options.alpha; }) visit("alpha", options.alpha, "reward a token of length is worth");
  if constexpr (requires { options.tau; }) visit("tau", options.tau, "temperature of the mixing coefficient");
  if constexpr (requires { options.average; }) visit("average", options.average, "per-token averages, not sums");
  if constexpr (requires { options.running_shift; }) {
    visit("running_shift", options.running_shift, "shift rewards by their running mean");
  }
  if constexpr (requires { options.label_smoothing; }) {
    visit("label_smoothing", options.label_smoothing, detail::kSmoothingHelp);
  }
  if constexpr (requires { options.f_divergence; }) visit("f_divergence", options.f_divergence, "link function");
}

}  // namespace sao
