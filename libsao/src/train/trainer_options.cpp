// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <optional>
#include <string>

#include "sao/train/trainer.h"
#include "train/core.h"
#include "train/problems.h"

namespace sao {

using detail::OrderedJson;

void validate(const TrainerOptions& options) {
  validate(options.loss);
  validate(options.optimizer);
  validate(options.schedule);
  validate(options.reference);
  detail::validate(options.checkpoint);
  detail::Problems problems("train");
  problems.need(options.epochs >= 1, "epochs", options.epochs, "at least 1");
  problems.need(options.max_steps >= 0, "max_steps", options.max_steps, "0 or more");
  problems.need(options.batch_size >= 1, "batch_size", options.batch_size, "at least 1");
  problems.need(options.micro_batch_tokens >= 1, "micro_batch_tokens", options.micro_batch_tokens, "at least 1");
  problems.need(options.micro_batch_pairs >= 0, "micro_batch_pairs", options.micro_batch_pairs, "0 or more");
  const std::string& policy = options.token_policy;
  problems.need(policy == "clean" || policy == "trl" || policy == "simpo", "token_policy", '"' + policy + '"',
                "clean, trl or simpo");
  problems.need(options.max_length >= 0, "max_length", options.max_length, "0 or more");
  const std::string& truncation = options.truncation;
  problems.need(truncation == "drop" || truncation == "keep_start" || truncation == "keep_end" || truncation == "simpo",
                "truncation", '"' + truncation + '"', "drop, keep_start, keep_end or simpo");
  if (truncation == "simpo") {
    problems.need(
        options.max_prompt_length > 0 && (options.max_length == 0 || options.max_prompt_length < options.max_length),
        "max_prompt_length", options.max_prompt_length, "above 0 and less than max_length");
  }
  problems.need(options.ld_alpha >= 0.0 && options.ld_alpha <= 1.0, "ld_alpha", options.ld_alpha, "0 to 1");
  if (sorts_pairs(options.loss)) {
    problems.need(!options.use_weighting, "use_weighting", options.use_weighting, "off: the loss sorts its pairs");
    problems.need(!options.soft_labels, "soft_labels", options.soft_labels, "off: the loss sorts its pairs");
  }
  if (is_unpaired(options.loss)) {
    problems.need(!options.use_weighting, "use_weighting", options.use_weighting, "off: the loss is not of pairs");
    problems.need(!options.soft_labels, "soft_labels", options.soft_labels, "off: the loss is not of pairs");
    problems.need(!options.average_log_probs, "average_log_probs", options.average_log_probs,
                  "off: the loss is not of pairs");
    problems.need(options.ld_alpha == 1.0, "ld_alpha", options.ld_alpha, "1: the loss is not of pairs");
  }
  if (std::holds_alternative<KTO>(options.loss)) {
    problems.need(options.reference.mode != "rows", "reference.mode", '"' + options.reference.mode + '"',
                  "another: no row has the log-probs of kto's mismatched pairs");
    problems.need(options.batch_size >= 2, "batch_size", options.batch_size, "at least 2: kto mismatches rows");
  }
  problems.need(options.chunk_tokens >= 1, "chunk_tokens", options.chunk_tokens, "at least 1");
  problems.raise();
}

std::string to_json_line(const TrainMetrics& m) {
  OrderedJson line{{"step", m.step},
                   {"epoch", detail::json_number(m.epoch)},
                   {"loss", detail::json_number(m.loss)},
                   {"grad_norm", detail::json_number(m.grad_norm)},
                   {"learning_rate", detail::json_number(m.learning_rate)},
                   {"lr", detail::json_number(m.learning_rate)}};
  const auto add = [&](const char* name, std::optional<double> value) {
    if (value && !std::isnan(*value)) line[name] = detail::json_number(*value);
  };
  add("rewards/chosen", m.rewards_chosen);
  add("rewards/rejected", m.rewards_rejected);
  add("rewards/accuracies", m.reward_accuracy);
  add("rewards/margins", m.reward_margin);
  add("logps/chosen", m.logps_chosen);
  add("logps/rejected", m.logps_rejected);
  add("lengths/chosen", m.chosen_length);
  add("lengths/rejected", m.rejected_length);
  add("nll_loss", m.nll_loss);
  add("log_odds_ratio", m.log_odds_ratio);
  add("log_odds_chosen", m.log_odds_chosen);
  add("kl", m.kl);
  add("entropy", m.entropy);
  add("mean_token_accuracy", m.mean_token_accuracy);
  add("logits/chosen", m.logits_chosen);
  add("logits/rejected", m.logits_rejected);
  line["num_tokens"] = m.num_tokens;
  return detail::dump_json_line(line);
}

}  // namespace sao
