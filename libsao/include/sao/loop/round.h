// SPDX-License-Identifier: Apache-2.0
// Self-Alignment Optimization in rounds: prompts, responses, verdicts, pairs, training, evaluation; in a run folder
// that can be resumed.
//   sao::Run run("runs/first", {.model = "gemma-2-2b-it", .personas = "personas.jsonl", .prompts = {.count = 10'000}});
//   while (run.step()) std::puts(run.stage().c_str());
// Follows: Self-Alignment Optimization, Algorithm 1; more rounds than one start from the last round's model, with
// personas that have not been used.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/log.h"
#include "sao/base/options.h"
#include "sao/base/seed.h"
#include "sao/eval/compare.h"
#include "sao/generate/engine.h"
#include "sao/judge/judge.h"
#include "sao/judge/pairs.h"
#include "sao/loop/run_folder.h"
#include "sao/synth/prompts.h"
#include "sao/synth/responses.h"
#include "sao/train/trainer.h"

namespace sao {

/// How a round's model is compared with the round's start and with the base.
struct EvaluationSettings {
  std::int64_t count = 200;  ///< prompts that the base writes for it, from personas of their own; 0 = no evaluation
  std::string prompts = {};  ///< JSON Lines with {"prompt": s} to use instead
  std::string judge = {};    ///< model folder; empty = the base, the same judge for every round
  CompareOptions compare = {};
};

template <class Visitor, OptionsOf<EvaluationSettings> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("count", options.count, "evaluation prompts that the base model writes; 0 = no evaluation");
  visit("prompts", options.prompts, "JSON Lines with {\"prompt\": s} to evaluate on instead");
  visit("judge", options.judge, "model folder of the evaluation's judge; empty = the base model");
  visit("compare", options.compare, "answers, judge and statistics");
}

/// Everything that decides what a run computes. Seeds inside the nested options, and weights_version, are not used: all
/// randomness comes from `seed`, by round and stage.
struct RunSettings {
  std::string model = {};      ///< Hugging Face folder of the base
  std::string personas = {};   ///< JSON Lines with {"persona": s}; empty = unguided prompts
  std::string templates = {};  ///< file as sao_templates.json; empty = the model's own, else the defaults
  std::int64_t rounds = 1;
  std::string device = "cpu";     ///< "cpu" or "cuda:N"
  std::string dtype = "float32";  ///< of weights and computation; bfloat16 trains with float32 masters
  Seed seed = {42};
  PromptOptions prompts = {};  ///< count: attempts a round; 0 = the personas, shared out among the rounds
  ResponseOptions responses = {};
  JudgeOptions judge = {};
  std::string judge_model = {};               ///< model folder; empty = the policy judges itself, which is the method
  PairOptions pairs = {.soft_labels = true};  ///< p is on record; train.soft_labels says whether it is used
  TrainerOptions train = {.checkpoint = {.every_steps = 50}};
  std::string reference = "start";  ///< what losses with a reference compare with: the round's "start" or the "base"
  EvaluationSettings eval = {};
  EngineOptions engine =
      {};  ///< no effect on results (bit for bit on the CPU): not in the manifest, may differ on resume
};

template <class Visitor, OptionsOf<RunSettings> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("model", options.model, "Hugging Face folder of the base model");
  visit("personas", options.personas, "JSON Lines with {\"persona\": s}; empty = unguided prompts");
  visit("templates", options.templates, "templates file; empty = the model's own, else the defaults");
  visit("rounds", options.rounds, "rounds of self-alignment");
  visit("device", options.device, "cpu or cuda:N");
  visit("dtype", options.dtype, "float32 or bfloat16");
  visit("seed", options.seed, "seed of everything");
  visit("prompts", options.prompts, "writing prompts");
  visit("responses", options.responses, "answering them");
  visit("judge", options.judge, "judging the answers");
  visit("judge_model", options.judge_model, "model folder of another judge; empty = the policy itself");
  visit("pairs", options.pairs, "from verdicts to preference pairs");
  visit("train", options.train, "preference training");
  visit("reference", options.reference, "reference of the loss: the round's start, or base");
  visit("eval", options.eval, "evaluation after each round");
  visit("engine", options.engine, "generation engine; no effect on results");
}

/// visit(path, field, help) for the settings that a user can set: visit_leaves without the fields that a run sets
/// itself.
template <class Visitor, OptionsOf<RunSettings> Settings>
void visit_settings(Visitor&& visit, Settings& settings) {
  visit_leaves(
      [&](const std::string& path, auto& field, const char* help) {
        if (path != "seed" && (path.ends_with("seed") || path.ends_with("weights_version"))) return;
        visit(path, field, help);
      },
      settings);
}

/// Throws InputError naming every setting that is out of range.
void validate(const RunSettings& settings);

/// A run, stage by stage. Files and their contents are those of the run directory's contract: manifest.json,
/// personas.jsonl, eval/ (the evaluation's prompts and the base's answers) and round-N/ with prompts, responses,
/// verdicts, pairs and metrics (.jsonl), outcomes.json (how many prompts gave a pair, how many pairs were trained on,
/// and why the others were not), checkpoints/, model/, eval_answers.jsonl and eval.json; report.html at the end.
///
/// Evaluation prompts are held out: a round's prompt that repeats one of them, or nearly, is dropped as a duplicate.
///
/// Every line is a function of the settings and the input files, never of the clock, the batch size or an earlier stop:
/// a run that is killed at any moment and resumed ends with the same bytes. Wall-clock numbers stand apart, in
/// round-N/timing.jsonl and eval/timing.jsonl.
class Run {
 public:
  /// Opens the folder (see RunFolder), reads and fingerprints the inputs, and writes or compares the manifest.
  /// Throws InputError: settings out of range, unreadable inputs, verdicts that the judge's tokens do not tell apart;
  /// on resume, every setting or input that differs.
  Run(const std::filesystem::path& folder, const RunSettings& settings, const RunFolderOptions& options = {},
      LogSink log = {}, ProgressSink progress = {});
  ~Run();
  Run(Run&&) noexcept;

  /// Does the next stage, or what is left of it; false when there was none. Throws InputError when the stage has
  /// nothing to go on with (no prompt kept, no pair).
  bool step();
  /// The stage of the last step: "round 1: responses".
  const std::string& stage() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sao
