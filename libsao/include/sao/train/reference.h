// SPDX-License-Identifier: Apache-2.0
// What a loss compares the policy with: a function that gives log-probs, and when it changes.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "sao/base/options.h"
#include "sao/model/causal_lm.h"
#include "sao/train/logps.h"

namespace sao {

/// A reference: the log-prob of every token of each response. What response_token_logps is for a model; another one is
/// the policy with its adapters off. Called with gradients off.
using ReferenceScorer =
    std::function<std::vector<std::vector<double>>(std::span<const PromptedResponse>, const ScoringOptions&)>;

/// The scorer that a model is.
ReferenceScorer model_reference(CausalLM model);

/// Where reference log-probs come from. A loss without reference ignores it.
struct ReferenceOptions {
  /// "frozen": a model that does not change: the one given, else the policy as it is at the start. Its log-probs are
  ///   computed once, before the first step (TRL: precompute_ref_log_probs), and it is let go.
  /// "none": log-probs of 0, the reference-free form of the loss (older TRL: reference_free).
  /// "rows": the rows' own ref_chosen_logps and ref_rejected_logps, or ref_logps. Not for kto, whose mismatched pairs
  ///   no row knows.
  /// "moving": the given model, else the policy's start, and every `sync_steps` steps
  ///   reference = alpha policy + (1 - alpha) reference (TRL: sync_ref_model; alpha 1 copies). A second model stays in
  ///   memory, and each step scores its batch with it.
  std::string mode = "frozen";
  /// Of "frozen": log-probs are read from this file and added to it (empty = no file). With a file that has all of them
  /// no reference model is run, or needed. A JSON line a response, {"key", "logp", "tokens"}: keys are fingerprints of
  /// prompt and response ids. Its first line is the fingerprint of the reference's weights; another model is refused.
  std::string file = "";
  double alpha = 0.6;             ///< defaults TRL's (TR-DPO, Gorbatovski et al. 2024)
  std::int64_t sync_steps = 512;  ///< steps between updates of a moving reference
};

template <class Visitor, OptionsOf<ReferenceOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("mode", options.mode, "frozen, none, rows or moving");
  visit("file", options.file, "file of a frozen reference's log-probs: read, and completed");
  visit("alpha", options.alpha, "share of the policy in an update of a moving reference");
  visit("sync_steps", options.sync_steps, "steps between updates of a moving reference");
}

/// Throws InputError naming every field that is out of range.
void validate(const ReferenceOptions& options);

}  // namespace sao
