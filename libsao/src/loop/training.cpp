// SPDX-License-Identifier: Apache-2.0
#include "sao/loop/training.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "train/core.h"

namespace sao {
namespace fs = std::filesystem;
namespace {

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

/// Removes checkpoints with more steps than `metrics` has lines and half-removed ones, and of the others all but the
/// newest `keep`.
void remove_checkpoints(const fs::path& checkpoints, std::size_t lines, std::int64_t keep) {
  if (!fs::is_directory(checkpoints)) return;
  std::vector<fs::path> useless;
  std::map<std::int64_t, fs::path> good;
  for (const auto& entry : fs::directory_iterator(checkpoints)) {
    const std::optional<std::int64_t> step = detail::checkpoint_step(entry.path().filename().string());
    if (!step) continue;
    if (*step > static_cast<std::int64_t>(lines) || !fs::exists(entry.path() / "state.json")) {
      useless.push_back(entry.path());
    } else {
      good[*step] = entry.path();
    }
  }
  for (; good.size() > static_cast<std::size_t>(std::max<std::int64_t>(keep, 1)); good.erase(good.begin())) {
    useless.push_back(good.begin()->second);
  }
  for (const fs::path& path : useless) detail::remove_checkpoint(path);
}

}  // namespace

void train_to_end(Trainer& trainer, const fs::path& checkpoints, const fs::path& metrics,
                  const CheckpointOptions& options, const std::function<void(const Trainer&)>& on_step,
                  const std::function<std::string(const Trainer&)>& line) {
  remove_checkpoints(checkpoints, whole_lines(metrics), options.keep);
  trainer.start_or_resume(checkpoints);
  { const AppendFile unfinished_line_dropped(metrics); }
  keep_lines(metrics, static_cast<std::size_t>(trainer.steps_done()));
  AppendFile file(metrics);
  while (trainer.step()) {
    file.append(line ? line(trainer) : to_json_line(trainer.metrics()));
    const std::int64_t step = trainer.steps_done();
    // There is a new checkpoint: the next step may remove older ones, once the line of this one is on disk.
    const bool is_due = options.every_steps > 0 && step % options.every_steps == 0;
    if (is_due || step == trainer.total_steps()) file.sync();
    if (on_step) on_step(trainer);
  }
  file.sync();
}

}  // namespace sao
