# SPDX-License-Identifier: Apache-2.0
# The fuzz targets, with clang's libFuzzer and sanitizers: fuzz_<target> for every target of tests/fuzz. They need what
# reads files and nothing of LibTorch, so this stands in the place of everything else.
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "SAO_FUZZ needs clang, found ${CMAKE_CXX_COMPILER_ID}: use the preset fuzz or ./dev fuzz")
endif()
include(ReaderDependencies)

set(_sanitizers address,undefined)
file(GLOB _sources CONFIGURE_DEPENDS libsao/src/base/*.cpp libsao/src/io/*.cpp libsao/src/jinja/*.cpp
     libsao/src/text/*.cpp libsao/src/data/*.cpp)
list(FILTER _sources EXCLUDE REGEX "io/(safetensors|hf_folder)\\.cpp$")  # make tensors
add_library(sao_readers STATIC ${_sources} libsao/src/model/config.cpp
                               libsao/src/model/read_config.cpp libsao/src/model/write_config.cpp
                               libsao/src/model/families.cpp libsao/src/eval/alpaca_eval.cpp libsao/src/eval/task_row.cpp
                               examples/sao/toml.cpp)
target_compile_features(sao_readers PUBLIC cxx_std_20)
target_include_directories(sao_readers PUBLIC libsao/include libsao/src examples/sao tests)
target_compile_definitions(sao_readers PUBLIC FMT_HEADER_ONLY=1)
target_compile_options(sao_readers PUBLIC -O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all
                                          -fsanitize=fuzzer-no-link,${_sanitizers})
target_link_libraries(sao_readers PUBLIC fmt::fmt nlohmann_json::nlohmann_json Eigen3::Eigen PkgConfig::sentencepiece
                                         PkgConfig::pcre2 PkgConfig::utf8proc Threads::Threads)

file(GLOB _targets CONFIGURE_DEPENDS tests/fuzz/*.cpp)
list(FILTER _targets EXCLUDE REGEX "(_test|libfuzzer)\\.cpp$")
foreach(_source ${_targets})
  get_filename_component(_name ${_source} NAME_WE)
  add_executable(fuzz_${_name} tests/fuzz/libfuzzer.cpp ${_source})
  target_compile_definitions(fuzz_${_name} PRIVATE SAO_FUZZ_TARGET=${_name})
  target_link_libraries(fuzz_${_name} PRIVATE sao_readers)
  target_link_options(fuzz_${_name} PRIVATE -fsanitize=fuzzer,${_sanitizers})
endforeach()
