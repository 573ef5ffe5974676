// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/training.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/error.h"
#include "sao/io/files.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

/// The step of a checkpoint's folder name, "step-000100".
std::optional<std::size_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step-";
  constexpr std::size_t kMaxDigits = 18;
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string digits = name.substr(kPrefix.size());
  if (digits.empty() || digits.size() > kMaxDigits || digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::stoull(digits);
}

std::size_t whole_lines(const fs::path& path) {
  if (!fs::exists(path)) return 0;
  const std::string text = read_file(path);
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

void keep_lines(const fs::path& path, std::size_t count) {
  if (whole_lines(path) <= count) return;
  const std::string text = read_file(path);
  std::size_t end = 0;
  for (std::size_t i = 0; i < count; ++i) end = text.find('\n', end) + 1;
  write_file_atomically(path, std::string_view(text).substr(0, end));
}

}  // namespace

void prepare_checkpoints(const fs::path& checkpoints, const fs::path& metrics, const CheckpointOptions& options) {
  if (!fs::is_directory(checkpoints)) return;
  const std::size_t lines = whole_lines(metrics);
  std::vector<fs::path> useless;
  std::map<std::size_t, fs::path> good;
  for (const auto& entry : fs::directory_iterator(checkpoints)) {
    const std::optional<std::size_t> step = step_of(entry.path().filename().string());
    if (!step) continue;
    if (*step > lines || !fs::exists(entry.path() / "state.json")) {
      useless.push_back(entry.path());
    } else {
      good[*step] = entry.path();
    }
  }
  for (const auto& entry : good) {
    if (good.size() - static_cast<std::size_t>(std::distance(good.begin(), good.find(entry.first))) >
        static_cast<std::size_t>(std::max<std::int64_t>(options.keep, 1))) {
      useless.push_back(entry.second);
    }
  }
  for (const fs::path& path : useless) {
    fs::remove(path / "state.json");  // first: what a stop leaves of the removal is no checkpoint
    fs::remove_all(path);
  }
}

void train_to_end(Trainer& trainer, const fs::path& checkpoints, const fs::path& metrics,
                  const std::function<void(const Trainer&)>& on_step,
                  const std::function<std::string(const Trainer&)>& line) {
  trainer.start_or_resume(checkpoints);
  { const AppendFile unfinished_line_dropped(metrics); }
  keep_lines(metrics, static_cast<std::size_t>(trainer.steps_done()));
  AppendFile file(metrics);
  while (trainer.step()) {
    file.append(line ? line(trainer) : to_json_line(trainer.metrics()));
    if (on_step) on_step(trainer);
  }
  file.sync();
}

std::int64_t usable_length(const TrainerOptions& options, const ModelConfig& config) {
  const std::int64_t context = config.max_position_embeddings;
  return options.max_length == 0 ? context : std::min(options.max_length, context);
}

}  // namespace sao
