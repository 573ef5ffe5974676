// SPDX-License-Identifier: Apache-2.0
// The folder of a run: one process at a time, files that only grow or appear whole, resume by reading what is there.
//   sao::RunFolder run("runs/first", {.resume = true});
//   sao::RecordFile<sao::Prompt> prompts(run.round(1) / "prompts.jsonl");
//   for (std::size_t i = prompts.records().size(); i < wanted; ++i) prompts.append(make_prompt(i));
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "sao/io/files.h"
#include "sao/io/jsonl.h"

namespace sao {

struct RunFolderOptions {
  bool resume = false;  ///< continue what is in the folder; off, the folder must be absent or empty
};

/// A locked run folder. The lock (RUN/.lock) goes with the object, or with its process.
class RunFolder {
 public:
  /// Makes or opens the folder, locks it, and removes the temporary files of a killed process. With resume, a folder
  /// that does not exist yet, or is empty, is a new run. Throws InputError: the folder holds files and resume is off,
  /// or it holds files and no manifest.json; ResourceError: another process has the lock, the folder cannot be made.
  explicit RunFolder(const std::filesystem::path& folder, const RunFolderOptions& options = {});
  /// Throws what the constructor would, but makes and locks nothing: to be asked before an hour's work.
  static void check(const std::filesystem::path& folder, const RunFolderOptions& options = {});
  ~RunFolder();
  RunFolder(RunFolder&&) noexcept;
  RunFolder& operator=(RunFolder&&) noexcept;

  const std::filesystem::path& path() const;
  /// RUN/round-<number>, made where it is missing.
  std::filesystem::path round(std::int64_t number) const;

  /// Writes RUN/manifest.json where there is none. Else compares: throws InputError naming every field that differs
  /// with both values. A manifest that is there is never changed.
  void fix_manifest(std::string_view manifest_json);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A JSON Lines file of one stage, written in a fixed order, so that a stopped run leaves a beginning of the whole
/// file.
template <class Record>
class RecordFile {
 public:
  /// Reads what is there, without an unfinished last line. Throws InputError for a line that is no Record.
  explicit RecordFile(const std::filesystem::path& path) : file_(path), records_(read_jsonl<Record>(path)) {}

  const std::vector<Record>& records() const { return records_; }

  /// Appends a record. It is kept as it will be read (text that is no UTF-8 is repaired), so that a run that is resumed
  /// sees what one without a stop saw.
  void append(const Record& record) {
    const std::string line = to_json_line(record);
    file_.append(line);
    from_json_line(line, records_.emplace_back());
  }

  /// Flushes to disk.
  void sync() { file_.sync(); }

 private:
  AppendFile file_;
  std::vector<Record> records_;
};

}  // namespace sao
