// SPDX-License-Identifier: Apache-2.0
#include "sao/io/jsonl.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "io/json.h"

namespace sao {
namespace {

constexpr std::size_t kMaxLineBytes = std::size_t{1} << 28;

/// Owns a descriptor unless it is the standard input.
class Source {
 public:
  explicit Source(const std::filesystem::path& path)
      : name_(path == "-" ? "stdin" : path.string()),
        descriptor_(path == "-" ? STDIN_FILENO : ::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail();
  }
  ~Source() {
    if (descriptor_ > STDERR_FILENO) ::close(descriptor_);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  const std::string& name() const { return name_; }

  /// The next bytes; none at the end.
  std::string_view read(std::string& buffer) {
    for (;;) {
      const ssize_t count = ::read(descriptor_, buffer.data(), buffer.size());
      if (count >= 0) return std::string_view(buffer.data(), static_cast<std::size_t>(count));
      if (errno != EINTR) fail();
    }
  }

 private:
  [[noreturn]] void fail() const {
    throw InputError(fmt::format("{}: {}, expected a file that can be read", name_, std::strerror(errno)));
  }

  std::string name_;
  int descriptor_;
};

constexpr std::string_view kBlanks = " \t\r\n\f\v";

/// Throws for a file that is known not to be text by its first bytes, and says how to convert it.
void refuse_other_formats(const std::string& name, std::string_view begin) {
  const auto refuse = [&](std::string_view what, const std::string& expected) {
    throw InputError(fmt::format("{}: {}, expected JSON Lines; {}", name, what, expected));
  };
  const auto convert = [&](std::string_view format) {
    return fmt::format(
        "convert it: python3 -c \"import datasets; datasets.load_dataset('{}', data_files='{}')['train']"
        ".to_json('rows.jsonl')\"",
        format, name);
  };
  if (begin.starts_with("PAR1")) refuse("a Parquet file", convert("parquet"));
  if (begin.starts_with("ARROW1") || begin.starts_with("\xFF\xFF\xFF\xFF")) refuse("an Arrow file", convert("arrow"));
  if (begin.starts_with("\x1F\x8B")) {
    refuse("compressed by gzip", fmt::format("unpack it: gzip -dc {} > rows.jsonl", name));
  }
  if (begin.starts_with("\x28\xB5\x2F\xFD")) {
    refuse("compressed by zstd", fmt::format("unpack it: zstd -dc {} > rows.jsonl", name));
  }
}

/// The rows of one JSON list, each as a line of its own.
void for_each_element(const std::string& name, std::string_view text,
                      const std::function<void(std::string_view line)>& each) {
  const detail::Json list = detail::parse_json(text, name);
  for (std::size_t i = 0; i < list.size(); ++i) {
    try {
      each(list[i].dump());
    } catch (const InputError& error) {
      throw InputError(fmt::format("{}: row {}: {}", name, i + 1, error.what()));
    }
  }
}

}  // namespace

void for_each_line(const std::filesystem::path& path, const std::function<void(std::string_view line)>& each) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  Source source(path);
  std::size_t number = 0;
  const auto finish = [&](std::string_view line) {
    ++number;
    if (number == 1 && line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t\r\f\v") == std::string_view::npos) return;
    try {
      each(line);
    } catch (const InputError& error) {
      throw InputError(fmt::format("{}:{}: {}", source.name(), number, error.what()));
    }
  };

  std::string buffer(1 << 16, '\0');
  std::string unfinished;
  bool at_start = true;
  for (;;) {
    std::string_view piece = source.read(buffer);
    if (piece.empty()) break;
    if (at_start) {
      // A pipe may give less than a signature at first: then the lines' own errors have to do.
      refuse_other_formats(source.name(), piece);
      std::string_view text = piece;
      if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
      text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
      if (text.starts_with('[')) {
        std::string whole(text);
        while (!(piece = source.read(buffer)).empty()) whole += piece;
        return for_each_element(source.name(), whole, each);
      }
      at_start = text.empty();
    }
    for (std::size_t newline; (newline = piece.find('\n')) != std::string_view::npos;
         piece.remove_prefix(newline + 1)) {
      if (unfinished.empty()) {
        finish(piece.substr(0, newline));
      } else {
        unfinished += piece.substr(0, newline);
        finish(unfinished);
        unfinished.clear();
      }
    }
    unfinished += piece;
    if (unfinished.size() > kMaxLineBytes) {
      throw InputError(fmt::format("{}:{}: a line of more than {} bytes, expected shorter ones", source.name(),
                                   number + 1, kMaxLineBytes));
    }
  }
  if (!unfinished.empty()) finish(unfinished);
}

}  // namespace sao
