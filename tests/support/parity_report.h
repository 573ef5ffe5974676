// SPDX-License-Identifier: Apache-2.0
// What a comparison with the reference found, for docs/parity.md: `./dev parity` runs the tests with SAO_PARITY_REPORT
// naming a file, to which every comparison adds a line. Without it, nothing is written.
#pragma once

#include <fmt/format.h>
#include <stdlib.h>

#include <cstdint>
#include <cstdio>
#include <string>

namespace sao::testing {

struct ParityResult {
  std::string area;             ///< "model", "tokenizer", "chat template", "loss", "evaluation", ...
  std::string subject;          ///< fixture or family: "gemma2-tiny"
  std::string what;             ///< "logits, float32", "ids of texts", "loss, relative"
  std::int64_t compared = 0;    ///< numbers, texts or cases
  double worst = 0.0;           ///< largest difference; for exact things the number that differ
  double tolerance = 0.0;       ///< of the test; 0 = must be equal
  std::string worst_case = {};  ///< where the largest difference is
};

/// One line, fields separated by tabs; one write, so that programs that run in parallel may share the file.
inline void report_parity(const ParityResult& result) {
  const char* path = getenv("SAO_PARITY_REPORT");
  if (path == nullptr) return;
  const std::string line = fmt::format("{}\t{}\t{}\t{}\t{:.3g}\t{:.3g}\t{}\n", result.area, result.subject, result.what,
                                       result.compared, result.worst, result.tolerance, result.worst_case);
  if (std::FILE* file = std::fopen(path, "ae")) {
    std::setvbuf(file, nullptr, _IOFBF, line.size() + 1);
    std::fwrite(line.data(), 1, line.size(), file);
    std::fclose(file);
  }
}

}  // namespace sao::testing
