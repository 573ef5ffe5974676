// SPDX-License-Identifier: Apache-2.0
// Programs run from tests, as a user's shell would.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/paths.h"

namespace sao::testing {

struct Outcome {
  int status = -1;  ///< exit status, or 128 + the signal that ended it
  std::string out = {};
  std::string err = {};
};

/// What a program may use; 0 is no limit.
struct ProcessLimits {
  std::uint64_t address_space = 0;  ///< bytes; sanitizers need more than any limit
  std::uint64_t file_size = 0;      ///< bytes of each file it writes: what a full disk looks like
};

/// A running program: bin/<name> of the build, or a path.
class Process {
 public:
  Process(const std::string& program, const std::vector<std::string>& arguments, const std::string& input = {},
          const std::filesystem::path& work_folder = {}, const ProcessLimits& limits = {}) {
    std::ofstream(files_ / "in", std::ios::binary) << input;
    std::vector<std::string> words = {
        program.find('/') == std::string::npos ? std::string(SAO_BINARY_DIR "/bin/") + program : program};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string in = files_ / "in", out = files_ / "out", err = files_ / "err";
    pid_ = fork();
    if (pid_ == 0) {
      dup2(open(in.c_str(), O_RDONLY), STDIN_FILENO);
      dup2(open(out.c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
      dup2(open(err.c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
      if (!work_folder.empty() && chdir(work_folder.c_str()) != 0) _exit(126);
      for (const auto& [resource, bytes] :
           {std::pair(RLIMIT_AS, limits.address_space), std::pair(RLIMIT_FSIZE, limits.file_size)}) {
        const rlimit limit = {bytes, bytes};
        if (bytes > 0) setrlimit(resource, &limit);
      }
      execv(argv[0], argv.data());
      _exit(127);
    }
  }
  ~Process() {
    if (pid_ > 0) kill_now();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  /// Waits for the end.
  Outcome wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read("out"), read("err")};
  }

  /// False when it still runs after that time.
  bool ends_within(std::chrono::microseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    siginfo_t info = {};
    for (;;) {
      info.si_pid = 0;
      waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT);
      if (info.si_pid != 0) return true;
      if (std::chrono::steady_clock::now() >= end) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

  void kill_now() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  std::string read(const std::string& name) const {
    std::ifstream file(files_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  TemporaryFolder files_;
  pid_t pid_ = -1;
};

inline Outcome run_program(const std::string& program, const std::vector<std::string>& arguments,
                           const std::string& input = {}, const std::filesystem::path& work_folder = {},
                           const ProcessLimits& limits = {}) {
  return Process(program, arguments, input, work_folder, limits).wait();
}

}  // namespace sao::testing
