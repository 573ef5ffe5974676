// SPDX-License-Identifier: Apache-2.0
// A run as one page for people: win rates with their errors, what was written, judged and learned, and transcripts.
//   sao::write_report("runs/first");   // runs/first/report.html
#pragma once

#include <filesystem>
#include <string>

namespace sao {

/// The page: HTML with everything inside it (styles, charts as SVG), no scripts, nothing fetched. A function of the
/// run's files, without the clock; rounds that are not finished show what there is. Throws InputError: no
/// manifest.json, files that are no run's.
std::string render_report(const std::filesystem::path& run_folder);

/// Writes render_report to RUN/report.html.
void write_report(const std::filesystem::path& run_folder);

}  // namespace sao
