# SPDX-License-Identifier: Apache-2.0
# sao_room, sao_test, sao_program: the three kinds of target.

# Flags of everything we compile ourselves. -fPIC everywhere, so that one precompiled header serves
# libraries and programs alike; -g1 because full debug info doubles g++'s time on LibTorch headers.
add_library(sao_flags INTERFACE)
target_compile_features(sao_flags INTERFACE cxx_std_20)
target_compile_options(
  sao_flags INTERFACE -fPIC -Wall -Wextra -Wshadow -Wnon-virtual-dtor $<$<CONFIG:Debug,RelWithDebInfo>:-g1>
                      $<$<BOOL:${SAO_WERROR}>:-Werror>)
target_compile_definitions(sao_flags INTERFACE FMT_HEADER_ONLY=1)
if(SAO_SANITIZE)
  target_compile_options(sao_flags INTERFACE -fsanitize=${SAO_SANITIZE} -fno-omit-frame-pointer
                                             -fno-sanitize-recover=all)
  target_link_options(sao_flags INTERFACE -fsanitize=${SAO_SANITIZE})
endif()
# A faster linker where there is one. Not mold before 2.4: now and then it links a program that does not start ("cannot
# apply additional memory protection after relocation", its issue 1151).
find_program(SAO_MOLD mold)
mark_as_advanced(SAO_MOLD)
if(SAO_MOLD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT SAO_SANITIZE)
  execute_process(COMMAND ${SAO_MOLD} --version OUTPUT_VARIABLE _sao_mold_version ERROR_QUIET)
  if(_sao_mold_version MATCHES "mold ([0-9.]+)" AND NOT CMAKE_MATCH_1 VERSION_LESS 2.4)
    target_link_options(sao_flags INTERFACE -fuse-ld=mold)
  endif()
endif()
find_program(SAO_CCACHE ccache)
mark_as_advanced(SAO_CCACHE)
if(SAO_CCACHE AND PROJECT_IS_TOP_LEVEL)
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${SAO_CCACHE})
  target_compile_options(sao_flags INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>)
endif()

# One precompiled LibTorch header for all heavy sources.
file(WRITE ${CMAKE_BINARY_DIR}/sao_pch.cpp "// holds the precompiled header\n")
add_library(sao_pch OBJECT ${CMAKE_BINARY_DIR}/sao_pch.cpp)
target_link_libraries(sao_pch PRIVATE sao_flags sao::torch)
target_precompile_headers(sao_pch PRIVATE <ATen/ATen.h> <fmt/format.h> <map> <memory> <string> <vector>)

set(SAO_ROOMS "" CACHE INTERNAL "")

# sao_room(NAME [HEAVY] [DEPENDS rooms...] [PRIVATE libraries...]): libsao/src/NAME -> sao_NAME, alias sao::NAME.
# HEAVY rooms see LibTorch through the precompiled header; the others must not include it.
function(sao_room name)
  cmake_parse_arguments(ARG "HEAVY" "" "DEPENDS;PRIVATE" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/${name}/*.cpp)
  list(FILTER sources EXCLUDE REGEX "_(isa|cuda)\\.cpp$")
  add_library(sao_${name} STATIC ${sources})
  add_library(sao::${name} ALIAS sao_${name})
  set_target_properties(sao_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(
    sao_${name} PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
    PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/src)
  target_compile_features(sao_${name} PUBLIC cxx_std_20)
  target_link_libraries(sao_${name} PRIVATE $<BUILD_INTERFACE:sao_flags> ${ARG_PRIVATE})
  foreach(room ${ARG_DEPENDS})
    target_link_libraries(sao_${name} PUBLIC sao_${room})
  endforeach()
  target_link_libraries(sao_${name} PUBLIC sao::torch)
  if(ARG_HEAVY)
    target_precompile_headers(sao_${name} REUSE_FROM sao_pch)
  endif()
  set(SAO_ROOMS ${SAO_ROOMS} ${name} CACHE INTERNAL "")
endfunction()

# For what is no part of the library and whose time is spent in the library: a third less to compile.
function(sao_compile_quickly target)
  # GCC's look for uninitialized values is wrong about defaults of strings in aggregates unless it inlines more than -O1 does.
  target_compile_options(${target} PRIVATE
    $<$<CONFIG:Release>:-O1> $<$<AND:$<CONFIG:Release>,$<CXX_COMPILER_ID:GNU>>:-Wno-maybe-uninitialized>)
endfunction()

# sao_program(NAME SOURCES ... [HEAVY] [LINK libraries...])
function(sao_program name)
  cmake_parse_arguments(ARG "HEAVY" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE sao_flags ${ARG_LINK})
  if(ARG_HEAVY)
    target_precompile_headers(${name} REUSE_FROM sao_pch)
  endif()
  sao_compile_quickly(${name})
endfunction()

# sao_test(NAME [HEAVY] [LINK libraries...] [SOURCES ...]): tests/NAME/*_test.cpp -> one program NAME_test, which CTest runs
# as one process: starting a LibTorch process costs more than most tests.
function(sao_test name)
  cmake_parse_arguments(ARG "HEAVY" "TIMEOUT" "LINK;SOURCES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*_test.cpp)
  sao_program(${name}_test SOURCES ${sources} ${ARG_SOURCES} LINK ${ARG_LINK} GTest::gtest GTest::gmock)
  target_sources(${name}_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/support/main.cpp)
  target_include_directories(${name}_test PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/libsao/src)
  if(ARG_HEAVY)
    target_precompile_headers(${name}_test REUSE_FROM sao_pch)
  endif()
  target_compile_definitions(${name}_test PRIVATE SAO_SOURCE_DIR="${PROJECT_SOURCE_DIR}" SAO_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${name} COMMAND ${name}_test)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS ${name})
endfunction()
