// SPDX-License-Identifier: Apache-2.0
// From nothing to the bundled model: a tokenizer and a small Gemma-2 trained on the composed corpus.
#pragma once

#include <cstdint>
#include <filesystem>

#include "sao/base/log.h"
#include "sao/base/options.h"

namespace microworld {

struct PretrainOptions {
  std::int64_t vocab_size = 1536;
  std::int64_t hidden_size = 128;
  std::int64_t layers = 6;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 2;
  std::int64_t intermediate_size = 256;
  std::int64_t steps = 6500;
  std::int64_t tokens_a_step = 2048;
  std::int64_t tokenizer_documents = 60000;
  double matrix_learning_rate = 0.01;  // Muon, matrices of the layers
  double learning_rate = 3e-3;         // AdamW, embedding and norms
  std::int64_t seed = 1;
};

template <class Visitor, sao::OptionsOf<PretrainOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("vocab_size", options.vocab_size, "pieces of the tokenizer, at most");
  visit("hidden_size", options.hidden_size, "width of the model");
  visit("layers", options.layers, "decoder layers");
  visit("heads", options.heads, "query heads");
  visit("kv_heads", options.kv_heads, "key and value heads");
  visit("intermediate_size", options.intermediate_size, "width of the MLP");
  visit("steps", options.steps, "optimizer steps");
  visit("tokens_a_step", options.tokens_a_step, "tokens of documents in a step, about");
  visit("tokenizer_documents", options.tokenizer_documents, "documents that the tokenizer is trained on");
  visit("matrix_learning_rate", options.matrix_learning_rate, "peak of Muon, for the layers' matrices");
  visit("learning_rate", options.learning_rate, "peak of AdamW, for embedding and norms");
  visit("seed", options.seed, "of the corpus and the weights");
}

/// Writes a Hugging Face folder with tokenizer and sao_templates.json. The same options give the same bytes on one
/// kind of machine. Throws sao::Error.
void pretrain(const std::filesystem::path& folder, const PretrainOptions& options, const sao::LogSink& log);

}  // namespace microworld
