// SPDX-License-Identifier: Apache-2.0
// A JSON Lines file, read as records of every kind.
#include "sao/data/records.h"

#include "fuzz/input.h"
#include "fuzz/targets.h"
#include "sao/io/jsonl.h"

namespace {

template <class Record>
void read_as(const std::filesystem::path& file) {
  std::vector<Record> records;
  if (!sao::fuzz::accepted([&] { records = sao::read_jsonl<Record>(file); })) return;
  for (const Record& record : records) {
    Record again;
    from_json_line(to_json_line(record), again);
    sao::fuzz::expect(again == record, "a record that is written is read as it was");
  }
}

}  // namespace

void sao::fuzz::records(std::string_view input) {
  static const Folder folder;
  if (input.empty()) return;
  const std::filesystem::path file = folder.write("records.jsonl", input);
  read_as<Persona>(file);
  read_as<Prompt>(file);
  read_as<Response>(file);
  read_as<Verdict>(file);
  read_as<Preference>(file);
}
