// SPDX-License-Identifier: Apache-2.0
#include "sao/io/jsonl.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

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
  for (;;) {
    std::string_view piece = source.read(buffer);
    if (piece.empty()) break;
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
