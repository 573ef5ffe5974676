// SPDX-License-Identifier: Apache-2.0
// Losses, gradients and logged rewards against TRL's trainers on their own batches.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "sao/io/files.h"
#include "sao/io/safetensors.h"
#include "sao/loss/preference.h"
#include "sao/model/causal_lm.h"
#include "sao/ops/log_probs.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao {
namespace {

using Json = nlohmann::json;

constexpr const char* kModels[] = {"gemma2-tiny", "llama3-tiny", "llama-tied", "sharded-gemma2"};

// A fixture's batch as a packed stream: prompts and responses of 2N sequences, chosen first.
struct Batch {
  PackedTokens tokens;
  at::Tensor rows, targets, sequence;  // of each scored token
  at::Tensor lengths;                  // [2N] scored tokens
  std::int64_t pairs = 0;
};

// `scored[t]` says whether token t of a row belongs to the response; rows may be padded on either side.
Batch make_batch(const at::Tensor& ids, const at::Tensor& attention, const at::Tensor& scored) {
  std::vector<TokenIds> sequences;
  std::vector<std::int64_t> rows, targets, owner, lengths;
  std::int64_t begin = 0;
  const auto id = ids.accessor<std::int64_t, 2>(), real = attention.accessor<std::int64_t, 2>();
  const auto counts = scored.accessor<bool, 2>();
  for (std::int64_t r = 0; r < ids.size(0); ++r) {
    TokenIds sequence;
    lengths.push_back(0);
    for (std::int64_t t = 0; t < ids.size(1); ++t) {
      if (real[r][t] == 0) continue;
      if (!sequence.empty() && counts[r][t]) {
        rows.push_back(begin + static_cast<std::int64_t>(sequence.size()) - 1);
        targets.push_back(id[r][t]);
        owner.push_back(r);
        ++lengths.back();
      }
      sequence.push_back(static_cast<TokenId>(id[r][t]));
    }
    begin += static_cast<std::int64_t>(sequence.size());
    sequences.push_back(std::move(sequence));
  }
  return {pack(sequences),   at::tensor(rows),    at::tensor(targets),
          at::tensor(owner), at::tensor(lengths), ids.size(0) / 2};
}

Batch dpo_batch(const SafetensorsFile& file, const std::string& key) {
  return make_batch(file.tensor(key + ".input_ids"), file.tensor(key + ".attention_mask"),
                    file.tensor(key + ".completion_mask") != 0);
}

// CPO and ORPO batches hold chosen and rejected apart, of different widths.
Batch split_batch(const SafetensorsFile& file, const std::string& key) {
  const auto both = [&](const char* name, std::int64_t fill) {
    at::Tensor chosen = file.tensor(key + ".chosen_" + name), rejected = file.tensor(key + ".rejected_" + name);
    const std::int64_t width = std::max(chosen.size(1), rejected.size(1));
    const auto widen = [&](const at::Tensor& t) { return at::constant_pad_nd(t, {0, width - t.size(1)}, fill); };
    return at::cat({widen(chosen), widen(rejected)});
  };
  return make_batch(both("input_ids", 0), both("attention_mask", 0), both("labels", -100) != -100);
}

at::Tensor token_logps(const CausalLM& model, const PackedTokens& tokens, const at::Tensor& rows,
                       const at::Tensor& targets, ops::TokenStatistics* statistics = nullptr) {
  return ops::log_probs(model.hidden(tokens).index_select(0, rows), model.output_weight(), targets,
                        {.logit_softcap = model.config().final_logit_softcapping, .chunk_tokens = 64}, statistics);
}

at::Tensor token_logps(const CausalLM& model, const Batch& batch, ops::TokenStatistics* statistics = nullptr) {
  return token_logps(model, batch.tokens, batch.rows, batch.targets, statistics);
}

// [sequences], summed over each one's tokens.
at::Tensor sums_of(const Batch& batch, const at::Tensor& values) {
  return at::zeros({batch.lengths.size(0)}, values.options()).index_add(0, batch.sequence, values);
}

// TRL's ld_alpha: tokens beyond the shorter response of the pair count alpha.
at::Tensor desensitised(const Batch& batch, const at::Tensor& logps, double alpha) {
  std::vector<float> weight;
  std::vector<std::int64_t> seen(static_cast<std::size_t>(2 * batch.pairs));
  for (std::int64_t i = 0; i < batch.sequence.size(0); ++i) {
    const std::int64_t s = batch.sequence[i].item<std::int64_t>(), pair = s % batch.pairs;
    const std::int64_t shared =
        std::min(batch.lengths[pair].item<std::int64_t>(), batch.lengths[pair + batch.pairs].item<std::int64_t>());
    weight.push_back(++seen[static_cast<std::size_t>(s)] <= shared ? 1.0f : static_cast<float>(alpha));
  }
  return logps * at::tensor(weight);
}

// The loss of a DPOTrainer variant.
PreferenceLoss dpo_loss(const Json& args) {
  const double beta = args.value("beta", 0.1), eps = args.value("label_smoothing", 0.0);
  const FDivergence f{args.value("f_divergence_type", "reverse_kl"), args.value("f_alpha_divergence_coef", 0.5)};
  LossMix mix;
  for (const Json& type : args.at("loss_type")) {
    const double weight = args.contains("loss_weights") ? args["loss_weights"][mix.losses.size()].get<double>() : 1.0;
    PreferenceLoss loss = parse_loss(type.get<std::string>());
    std::visit(
        [&](auto& o) {
          if constexpr (requires { o.beta; }) o.beta = beta;
          if constexpr (requires { o.label_smoothing; }) o.label_smoothing = eps;
          if constexpr (requires { o.f_divergence; }) o.f_divergence = f;
          if constexpr (requires { o.tau; }) o.tau = args.value("discopop_tau", 0.05);
        },
        loss);
    mix.losses.push_back({loss, weight});
  }
  return mix.losses.size() == 1 ? mix.losses[0].loss : PreferenceLoss(mix);
}

PreferenceLoss cpo_loss(const Json& args) {
  const std::string type = args.at("loss_type");
  const double beta = args.at("beta"), eps = args.value("label_smoothing", 0.0);
  const double ratio = args.value("simpo_gamma", 0.5) / beta, sft = args.value("cpo_alpha", 1.0);
  if (type == "simpo") {
    return SimPO{.beta = beta, .gamma_beta_ratio = ratio, .label_smoothing = eps, .sft_weight = sft};
  }
  if (type == "alphapo") return AlphaPO{.beta = beta, .gamma_beta_ratio = ratio, .alpha = args.at("alpha")};
  return CPO{.beta = beta, .form = type, .label_smoothing = eps, .sft_weight = sft};
}

double relative(double value, double expected) { return std::abs(value - expected) / std::abs(expected); }

struct Worst {
  double loss = 0.0, norm = 0.0, tensor = 0.0, metric = 0.0;
  std::string loss_case, norm_case, tensor_case, metric_case;
  std::int64_t variants = 0, tensors = 0, metrics = 0;

  static void take(double error, const std::string& where, double& worst, std::string& worst_case) {
    if (error < worst) return;
    worst = error;
    worst_case = where;
  }
};

class LossParity : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    SAO_NEED_PARITY(GetParam());
    at::set_num_threads(1);  // so small a model only waits for a second thread
    folder_ = testing::parity(GetParam());
    expected_ = Json::parse(read_file(folder_ / "expected.json"));
    file_.emplace(SafetensorsFile::open(folder_ / "expected.safetensors"));
    model_.emplace(CausalLM::load(folder_));
    reference_.emplace(CausalLM::load(folder_ / "ref"));
    model_->set_requires_grad(true);
  }

  // Compares a variant's loss and the gradients that it leaves in the model.
  void check(const std::string& name, const Json& variant, const at::Tensor& total) {
    SCOPED_TRACE(name);
    for (const auto& [key, parameter] : model_->parameters()) parameter.mutable_grad() = at::Tensor();
    total.backward({}, /*retain_graph=*/true);
    const double loss_error = relative(total.item<double>(), variant.at("loss"));
    EXPECT_LT(loss_error, 1e-4);
    double squares = 0.0;
    for (const auto& [key, parameter] : model_->parameters()) {
      squares += parameter.grad().to(at::kDouble).square().sum().item<double>();
      const std::string tensor = fmt::format("{}.grad.{}", name, key);
      if (!file_->contains(tensor)) continue;
      const at::Tensor expected = file_->tensor(tensor).to(at::kDouble);
      const double error =
          ((parameter.grad().to(at::kDouble) - expected).norm() / expected.norm().clamp_min(1e-30)).item<double>();
      EXPECT_LT(error, 1e-3) << tensor;
      Worst::take(error, tensor, worst_.tensor, worst_.tensor_case);
      ++worst_.tensors;
    }
    const double norm_error = relative(std::sqrt(squares), variant.at("grad_norm"));
    EXPECT_LT(norm_error, 1e-4);
    Worst::take(loss_error, name, worst_.loss, worst_.loss_case);
    Worst::take(norm_error, name, worst_.norm, worst_.norm_case);
    ++worst_.variants;
    current_ = name;
  }

  void check_metric(const Json& metrics, const char* name, double value) {
    SCOPED_TRACE(current_);
    ASSERT_TRUE(metrics.contains(name)) << name;
    const double expected = metrics[name], error = std::abs(value - expected) / std::max(1.0, std::abs(expected));
    EXPECT_LT(error, 1e-4) << name;
    Worst::take(error, current_ + " " + name, worst_.metric, worst_.metric_case);
    ++worst_.metrics;
  }

  void check_rewards(const Json& metrics, const at::Tensor& chosen, const at::Tensor& rejected) {
    check_metric(metrics, "rewards/chosen", chosen.mean().item<double>());
    check_metric(metrics, "rewards/rejected", rejected.mean().item<double>());
    check_metric(metrics, "rewards/margins", (chosen.mean() - rejected.mean()).item<double>());
    if (metrics.contains("rewards/accuracies")) {
      check_metric(metrics, "rewards/accuracies", (chosen > rejected).to(at::kDouble).mean().item<double>());
    }
  }

  void check_logps(const Json& metrics, const PreferenceLoss& loss, const PairLogps& logps) {
    const bool mean = logs_mean_logps(loss);
    const auto logged = [&](const at::Tensor& s, const at::Tensor& n) {
      return (mean ? s / n : s).mean().item<double>();
    };
    check_metric(metrics, "logps/chosen", logged(logps.chosen.detach(), logps.chosen_lengths));
    check_metric(metrics, "logps/rejected", logged(logps.rejected.detach(), logps.rejected_lengths));
  }

  // What TRL's fused output head tells; `is_chosen` says it of each sequence. (num_tokens counts over all variants that
  // the fixtures' trainer was used for.)
  void check_token_metrics(const Json& metrics, const Batch& batch, const ops::TokenStatistics& statistics,
                           const at::Tensor& is_chosen) {
    check_metric(metrics, "entropy", statistics.entropy.mean().item<double>());
    const at::Tensor chosen = is_chosen.index_select(0, batch.sequence);
    const auto mean = [](const at::Tensor& values, const at::Tensor& where) {
      return values.masked_select(where).to(at::kDouble).mean().item<double>();
    };
    check_metric(metrics, "logits/chosen", mean(statistics.mean_logit, chosen));
    check_metric(metrics, "logits/rejected", mean(statistics.mean_logit, chosen.logical_not()));
    if (metrics.contains("mean_token_accuracy")) {
      check_metric(metrics, "mean_token_accuracy", mean(statistics.is_top, chosen));
    }
  }

  PairLogps pair_logps(const Batch& batch, const at::Tensor& sums) const {
    const auto chosen = [&](const at::Tensor& t) { return t.narrow(0, 0, batch.pairs); };
    const auto rejected = [&](const at::Tensor& t) { return t.narrow(0, batch.pairs, batch.pairs); };
    return {.chosen = chosen(sums),
            .rejected = rejected(sums),
            .chosen_lengths = chosen(batch.lengths),
            .rejected_lengths = rejected(batch.lengths)};
  }

  // Every variant that TRL itself can compute was compared.
  void finish(const char* family) const {
    std::int64_t computable = 0;
    for (const auto& [name, variant] : expected_.at(family).items()) computable += !variant.contains("trl_error");
    EXPECT_EQ(worst_.variants, computable);
    const auto report = [&](const char* area, const char* what, std::int64_t compared, double worst, double tolerance,
                            const std::string& worst_case) {
      testing::report_parity(
          {area, GetParam(), fmt::format("{}, {}", family, what), compared, worst, tolerance, worst_case});
    };
    report("loss", "loss, relative", worst_.variants, worst_.loss, 1e-4, worst_.loss_case);
    report("gradient", "global norm, relative", worst_.variants, worst_.norm, 1e-4, worst_.norm_case);
    report("gradient", "tensors, relative L2", worst_.tensors, worst_.tensor, 1e-3, worst_.tensor_case);
    report("metrics", "logged values", worst_.metrics, worst_.metric, 1e-4, worst_.metric_case);
    std::printf(
        "           %s %s: %d variants, worst relative error: loss %.1e, grad norm %.1e, grad tensor %.1e, "
        "metric %.1e\n",
        GetParam(), family, static_cast<int>(worst_.variants), worst_.loss, worst_.norm, worst_.tensor, worst_.metric);
  }

  std::filesystem::path folder_;
  Json expected_;
  std::optional<SafetensorsFile> file_;
  std::optional<CausalLM> model_, reference_;
  Worst worst_;
  std::string current_;
};

// The forward pass of a batch, which its variants share.
struct Forward {
  Batch batch;
  at::Tensor policy, reference;  // token log-probs
  ops::TokenStatistics statistics;
};

TEST_P(LossParity, Dpo) {
  std::map<std::string, Forward> forwards;
  for (const auto& [name, variant] : expected_.at("dpo").items()) {
    if (variant.contains("trl_error")) continue;
    const Json &args = variant.at("args"), &metrics = variant.at("metrics");
    const PreferenceLoss loss = dpo_loss(args);
    const std::string key = variant.at("batch");
    if (!forwards.contains(key)) {
      Forward& made = forwards[key];
      made.batch = dpo_batch(*file_, key);
      made.policy = token_logps(*model_, made.batch, &made.statistics);
      const c10::NoGradGuard no_grad;
      made.reference = token_logps(*reference_, made.batch);
    }
    const Forward& forward = forwards.at(key);
    const Batch& batch = forward.batch;
    at::Tensor policy = forward.policy, reference = forward.reference;
    if (args.contains("ld_alpha")) {
      policy = desensitised(batch, policy, args["ld_alpha"]);
      reference = desensitised(batch, reference, args["ld_alpha"]);
    }
    PairLogps logps = pair_logps(batch, sums_of(batch, policy));
    const PairLogps at_reference = pair_logps(batch, sums_of(batch, reference));
    logps.reference_chosen = at_reference.chosen;
    logps.reference_rejected = at_reference.rejected;
    if (args.value("use_weighting", false)) {
      const at::Tensor aligned = forward.policy.detach() - forward.statistics.log_sum_square;
      const at::Tensor weight = (sums_of(batch, aligned) / batch.lengths).exp();
      logps.weight = weight.narrow(0, 0, batch.pairs) * weight.narrow(0, batch.pairs, batch.pairs);
    }
    check("dpo." + name, variant, preference_loss(loss, logps).loss.mean());
    // TRL logs rewards against the reference whatever the loss; of sft they are no part of it.
    const PairLosses rewards = preference_loss(DPO{.beta = args.value("beta", 0.1)}, logps);
    check_rewards(metrics, rewards.chosen_rewards, rewards.rejected_rewards);
    check_logps(metrics, loss, logps);
    check_token_metrics(metrics, batch, forward.statistics, at::arange(2 * batch.pairs) < batch.pairs);
  }
  finish("dpo");
}

// CPO and ORPO log mean logits over prompt and padding too, which no packed batch has: those are not compared.
TEST_P(LossParity, Cpo) {
  const Batch batch = split_batch(*file_, "cpo.batch");
  const at::Tensor policy = token_logps(*model_, batch);
  for (const auto& [name, variant] : expected_.at("cpo").items()) {
    const PreferenceLoss loss = cpo_loss(variant.at("args"));
    const PairLogps logps = pair_logps(batch, sums_of(batch, policy));
    const PairLosses out = preference_loss(loss, logps);
    check("cpo." + name, variant, out.loss.mean());
    const Json& metrics = variant.at("metrics");
    check_rewards(metrics, out.chosen_rewards, out.rejected_rewards);
    check_logps(metrics, loss, logps);
    // TRL logs 0 for a likelihood that has no weight.
    const double nll = -(logps.chosen.sum() / logps.chosen_lengths.sum()).item<double>();
    check_metric(metrics, "nll_loss", nll_weight(loss) > 0.0 ? nll : 0.0);
  }
  finish("cpo");
}

TEST_P(LossParity, Orpo) {
  const Batch batch = split_batch(*file_, "orpo.batch");
  // TRL's NLL is of prompt and chosen response.
  std::vector<std::int64_t> rows, targets, owner;
  const std::int64_t* starts = batch.tokens.starts.const_data_ptr<std::int64_t>();
  for (std::int64_t s = 0; s < batch.pairs; ++s) {
    for (std::int64_t t = starts[s]; t + 1 < starts[s + 1]; ++t) {
      rows.push_back(t);
      targets.push_back(batch.tokens.ids[t + 1].item<std::int64_t>());
      owner.push_back(s);
    }
  }
  for (const auto& [name, variant] : expected_.at("orpo").items()) {
    const ORPO loss{.beta = variant.at("args").at("beta"), .nll_of_prompt = true};
    PairLogps logps = pair_logps(batch, sums_of(batch, token_logps(*model_, batch)));
    const at::Tensor whole = token_logps(*model_, batch.tokens, at::tensor(rows), at::tensor(targets));
    const at::Tensor of = at::tensor(owner);
    logps.nll = at::zeros({batch.pairs}, whole.options()).index_add(0, of, whole);
    logps.nll_lengths = at::bincount(of);
    const PairLosses out = preference_loss(loss, logps);
    check("orpo." + name, variant, out.loss.mean());
    const Json& metrics = variant.at("metrics");
    check_rewards(metrics, out.chosen_rewards, out.rejected_rewards);
    check_logps(metrics, loss, logps);
    check_metric(metrics, "nll_loss", -(logps.nll.sum() / logps.nll_lengths.sum()).item<double>());
    check_metric(metrics, "log_odds_chosen", out.log_odds.mean().item<double>());
    check_metric(metrics, "log_odds_ratio", at::log_sigmoid(out.log_odds).mean().item<double>());
  }
  finish("orpo");
}

TEST_P(LossParity, Kto) {
  for (const auto& [name, variant] : expected_.at("kto").items()) {
    const Json &args = variant.at("args"), &metrics = variant.at("metrics");
    const std::string key = variant.at("batch");
    const Batch batch = dpo_batch(*file_, key);
    ops::TokenStatistics statistics;
    UnpairedLogps logps{.completion = sums_of(batch, token_logps(*model_, batch, &statistics)),
                        .label = file_->tensor(key + ".label")};
    {
      const c10::NoGradGuard no_grad;
      logps.reference = sums_of(batch, token_logps(*reference_, batch));
    }
    PreferenceLoss loss = parse_loss(args.value("loss_type", "kto"));
    std::visit(
        [&](auto& o) {
          if constexpr (requires { o.desirable_weight; }) {
            o.beta = args.at("beta");
            o.desirable_weight = args.value("desirable_weight", 1.0);
            o.undesirable_weight = args.value("undesirable_weight", 1.0);
          }
        },
        loss);
    if (std::holds_alternative<KTO>(loss)) {
      const c10::NoGradGuard no_grad;
      const Batch mismatched =
          make_batch(file_->tensor(key + ".KL_input_ids"), file_->tensor(key + ".KL_attention_mask"),
                     file_->tensor(key + ".KL_completion_mask") != 0);
      logps.kl = kl_estimate(sums_of(mismatched, token_logps(*model_, mismatched)),
                             sums_of(mismatched, token_logps(*reference_, mismatched)));
    }
    const UnpairedLosses out = unpaired_loss(loss, logps);
    check("kto." + name, variant, out.loss.mean());
    const at::Tensor good = logps.label != 0;
    check_metric(metrics, "kl", logps.kl);
    check_rewards(metrics, out.rewards.masked_select(good), out.rewards.masked_select(good.logical_not()));
    check_metric(metrics, "logps/chosen", logps.completion.masked_select(good).mean().item<double>());
    check_metric(metrics, "logps/rejected", logps.completion.masked_select(good.logical_not()).mean().item<double>());
    check_token_metrics(metrics, batch, statistics, good);
  }
  finish("kto");
}

INSTANTIATE_TEST_SUITE_P(Models, LossParity, ::testing::ValuesIn(kModels), [](const auto& name) {
  std::string text = name.param;
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
});

}  // namespace
}  // namespace sao
