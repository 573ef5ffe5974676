// SPDX-License-Identifier: Apache-2.0
// What all commands with a model have in common.
#pragma once

#include <sao/base/log.h>
#include <sao/model/causal_lm.h>
#include <sao/text/chat.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "arguments.h"

namespace sao::cli {

struct ModelOptions {
  std::string model = {};
  std::string adapter = {};
  std::string device = "cpu";
  std::string dtype = "float32";
  std::int64_t threads = 0;
};

/// --model --adapter --device --dtype --threads
void add_model_options(Arguments& arguments, ModelOptions& options);

/// Throws UsageError for a device, a dtype or a number of threads that does not exist.
void check_model_options(const ModelOptions& options);
/// The dtype that --save-dtype names; --dtype where it names none.
DType check_save_dtype(const std::string& save_dtype, const ModelOptions& options);
void check_threads(std::int64_t threads);

/// The folder itself, or the folder `model` in it: what `sao train --output` names is good as a --model.
std::filesystem::path model_folder(const std::filesystem::path& given);

/// The same with `adapter`: what `sao train --lora.r --output` names is good as an --adapter.
std::filesystem::path adapter_folder(const std::filesystem::path& given);

/// Sets the number of threads, then loads: the model with its adapters, or the model of another folder.
CausalLM load_model(const ModelOptions& options, Purpose purpose = Purpose::kAll);
CausalLM load_model(const ModelOptions& options, const std::string& folder, Purpose purpose = Purpose::kAll);
void set_threads(std::int64_t threads);

/// A prompt to continue: the conversation in the model's chat format with the assistant's header open.
TokenIds encode_conversation(const ChatTokenizer& text, const Messages& messages, jinja::Value::Fields variables = {});

/// Throws InputError unless every id is below `vocab_size`.
void check_vocabulary(const std::string& field, TokenSpan ids, std::int64_t vocab_size);

/// Progress on standard error, on a terminal only; and messages.
ProgressSink terminal_progress();
LogSink message_log();

}  // namespace sao::cli
