// SPDX-License-Identifier: Apache-2.0
// An option file of the program.
#include "toml.h"

#include "fuzz/input.h"
#include "fuzz/targets.h"

void sao::fuzz::toml(std::string_view input) {
  accepted([&] {
    for (const cli::TomlEntry& entry : cli::parse_toml(input, "file")) expect(entry.line >= 1, "lines count from one");
  });
}
