// SPDX-License-Identifier: Apache-2.0
#include "model_options.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <sao/base/device.h>
#include <sao/base/error.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <utility>

namespace sao::cli {

void add_model_options(Arguments& arguments, ModelOptions& options) {
  arguments.add("model", options.model, "Hugging Face folder of the model", "m");
  arguments.add("adapter", options.adapter, "folder of LoRA adapters for the model, as PEFT writes it");
  arguments.add("device", options.device, "cpu or cuda:N");
  arguments.add("dtype", options.dtype, "float32 or bfloat16");
  arguments.add("threads", options.threads, "processor threads; 0 = as many as there are cores");
}

void check_model_options(const ModelOptions& options) {
  try {
    parse_device(options.device);
    parse_dtype(options.dtype);
  } catch (const InputError& error) {
    throw UsageError(fmt::format("--{}", error.what()));
  }
  check_threads(options.threads);
}

DType check_save_dtype(const std::string& save_dtype, const ModelOptions& options) {
  try {
    return parse_dtype(save_dtype.empty() ? options.dtype : save_dtype);
  } catch (const InputError& error) {
    throw UsageError(fmt::format("--save-{}", error.what()));
  }
}

void check_threads(std::int64_t threads) {
  constexpr std::int64_t kMaxThreads = 4096;
  if (threads < 0 || threads > kMaxThreads) {
    throw UsageError(fmt::format("--threads is {}, expected 0 to {}", threads, kMaxThreads));
  }
}

void set_threads(std::int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
}

std::filesystem::path model_folder(const std::filesystem::path& given) {
  const bool holds_a_run =
      !std::filesystem::exists(given / "config.json") && std::filesystem::exists(given / "model" / "config.json");
  return holds_a_run ? given / "model" : given;
}

CausalLM load_model(const ModelOptions& options, const std::string& folder, Purpose purpose) {
  set_threads(options.threads);
  return CausalLM::load(
      model_folder(folder),
      {.device = parse_device(options.device), .dtype = parse_dtype(options.dtype), .purpose = purpose});
}

std::filesystem::path adapter_folder(const std::filesystem::path& given) {
  const char* const kFile = "adapter_config.json";
  const bool holds_a_run =
      !std::filesystem::exists(given / kFile) && std::filesystem::exists(given / "adapter" / kFile);
  return holds_a_run ? given / "adapter" : given;
}

CausalLM load_model(const ModelOptions& options, Purpose purpose) {
  if (options.adapter.empty()) return load_model(options, options.model, purpose);
  const CausalLM model = load_model(options, options.model, Purpose::kAll);  // adapters are merged into copies of it
  return model.with_lora(LoraAdapter::load(adapter_folder(options.adapter), model.config()));
}

TokenIds encode_conversation(const ChatTokenizer& text, const Messages& messages, jinja::Value::Fields variables) {
  return text.encode_chat(messages, {.add_generation_prompt = true, .variables = std::move(variables)});
}

void check_vocabulary(const std::string& field, TokenSpan ids, std::int64_t vocab_size) {
  for (const TokenId id : ids) {
    if (id >= vocab_size) {
      throw InputError(
          fmt::format("field \"{}\" holds {}, expected ids below {}, the model's vocabulary", field, id, vocab_size));
    }
  }
}

ProgressSink terminal_progress() {
  if (!isatty(STDERR_FILENO)) return {};
  return [last = std::chrono::steady_clock::time_point()](std::string_view what, std::size_t done,
                                                          std::size_t total) mutable {
    constexpr std::chrono::milliseconds kPause(100);
    const auto now = std::chrono::steady_clock::now();
    const bool end = total > 0 && done >= total;
    if (!end && now - last < kPause) return;
    last = now;
    const std::string line = total > 0 ? fmt::format("{} {}/{}", what, done, total) : fmt::format("{} {}", what, done);
    std::fprintf(stderr, "\r%s\033[K%s", line.c_str(), end ? "\n" : "");
    std::fflush(stderr);
  };
}

LogSink message_log() {
  return [](LogLevel level, std::string_view message) {
    std::fprintf(stderr, "sao: %s%.*s\n", level == LogLevel::kWarning ? "warning: " : "",
                 static_cast<int>(message.size()), message.data());
  };
}

}  // namespace sao::cli
