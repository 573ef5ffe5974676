// SPDX-License-Identifier: Apache-2.0
// AlpacaEval's files: answers that its tool judges (model_outputs.json), and annotations from a judge of our own.
//   auto pairs = sao::pair_alpaca_outputs(sao::read_alpaca_outputs("ours.json"),
//   sao::read_alpaca_outputs("base.json")); auto verdicts = sao::judge_pairs(judge, sao::judge_items(pairs),
//   {.judge_truncated = true}); write(sao::alpaca_annotations_json(pairs, verdicts, "our-judge"));    // `sao winrate`
//   and alpaca_eval read it
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "sao/data/records.h"
#include "sao/judge/judge.h"

namespace sao {

/// One answer of model_outputs.json.
struct AlpacaOutput {
  std::string instruction = {};
  std::string output = {};
  std::string generator = {};
  std::string dataset = {};  ///< left out of the file where it is empty
};

/// A JSON list or JSON Lines of objects with `instruction`, `output`, and optionally `generator` and `dataset`.
/// Throws InputError naming file, row and field, and for a file without rows.
std::vector<AlpacaOutput> read_alpaca_outputs(const std::filesystem::path& file);

/// The JSON list that alpaca_eval takes as --model_outputs.
std::string alpaca_outputs_json(std::span<const AlpacaOutput> outputs);

/// Two answers to one instruction: `baseline` is output_1, `model` is output_2.
struct AlpacaPair {
  AlpacaOutput baseline = {};
  AlpacaOutput model = {};
};

/// Pairs by instruction, in the order of the model's answers (of the baseline's answers to the same instruction the
/// first that is not taken yet). Throws InputError naming an instruction that the baseline has not answered.
std::vector<AlpacaPair> pair_alpaca_outputs(std::span<const AlpacaOutput> model,
                                            std::span<const AlpacaOutput> baseline);

/// What the judge is asked: `first` is the baseline's answer. Ids are the rows' numbers.
std::vector<JudgeItem> judge_items(std::span<const AlpacaPair> pairs);

/// 1 where output_1 is better, 2 where output_2 is: 2 - p_first where the judge gave a probability; 1.5 for identical
/// answers; an answer without text loses to one with text; NaN without a verdict.
double alpaca_preference(const Verdict& verdict, const AlpacaPair& pair);

/// annotations.json: for each pair instruction, output_1, generator_1, output_2, generator_2, annotator and preference
/// (null where there is none). Throws InputError unless there is one verdict a pair.
std::string alpaca_annotations_json(std::span<const AlpacaPair> pairs, std::span<const Verdict> verdicts,
                                    const std::string& annotator);

}  // namespace sao
