# SPDX-License-Identifier: Apache-2.0
# The CUDA kernels: libsao_cuda.so, which sao_ops loads when a program goes to a CUDA device. Programs do not link to
# it, so the same binaries run where there is neither a GPU nor LibTorch's CUDA half.
#   in : SAO_CUDA; sao::torch_cuda where LibTorch allows it; nvcc from CMAKE_CUDA_COMPILER, CUDACXX, the PATH,
#        CUDA_HOME or /usr/local/cuda; CMAKE_CUDA_ARCHITECTURES
#   out: the library sao_cuda, and sao_ops with load_cuda.cpp; or sao_ops with no_cuda.cpp
set(_sao_cuda_missing "")
if(SAO_CUDA STREQUAL "OFF")
  set(_sao_cuda_missing "SAO_CUDA is OFF")
elseif(SAO_SANITIZE)
  set(_sao_cuda_missing "SAO_SANITIZE is set")
elseif(NOT SaoTorch_torch_cuda_LIBRARY)
  set(_sao_cuda_missing "this LibTorch is for the CPU only")
elseif(NOT TARGET sao::torch_cuda)
  set(_sao_cuda_missing "no CUDA toolkit is found for LibTorch's CUDA half; CUDA_HOME may name one")
else()
  if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(SAO_NVCC nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin PATHS /usr/local/cuda/bin)
    mark_as_advanced(SAO_NVCC)
    if(SAO_NVCC)
      set(ENV{CUDACXX} "${SAO_NVCC}")
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(_sao_cuda_missing "no nvcc is found that compiles a program")
  else()
    # The runtime that LibTorch brings must be of the compiler's major version.
    execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --version OUTPUT_VARIABLE _sao_nvcc_text ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+)" _ "${_sao_nvcc_text}")
    set(_sao_nvcc_major "${CMAKE_MATCH_1}")
    set(_sao_torch_cuda_line "")
    if(EXISTS "${SaoTorch_DIR_FOUND}/version.py")
      file(STRINGS "${SaoTorch_DIR_FOUND}/version.py" _sao_torch_cuda_line REGEX "^cuda")
    endif()
    if(_sao_torch_cuda_line MATCHES "'([0-9]+)\\." AND NOT CMAKE_MATCH_1 STREQUAL _sao_nvcc_major)
      set(_sao_cuda_missing "LibTorch is built with CUDA ${CMAKE_MATCH_1}, nvcc is of CUDA ${_sao_nvcc_major}")
    endif()
  endif()
endif()

if(_sao_cuda_missing)
  if(SAO_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SAO_CUDA is ON, but ${_sao_cuda_missing}")
  endif()
  message(STATUS "CUDA kernels: not built (${_sao_cuda_missing})")
  target_sources(sao_ops PRIVATE src/ops/no_cuda.cpp)
  return()
endif()

# Machine code for the architectures of this list that nvcc knows, each of which also serves the later ones of its
# generation; newer generations compile the code kept for 9.0 when they load it.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch OUTPUT_VARIABLE _sao_known ERROR_QUIET)
  set(_sao_architectures "")
  foreach(_architecture 80 90 100 120)
    if(_sao_known MATCHES "compute_${_architecture}[^0-9]")
      list(APPEND _sao_architectures ${_architecture}-real)
    endif()
  endforeach()
  list(APPEND _sao_architectures 90-virtual)
  set(CMAKE_CUDA_ARCHITECTURES "${_sao_architectures}" CACHE STRING "CUDA architectures")
endif()
enable_language(CUDA)
message(STATUS "CUDA kernels: with nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")

# Free of LibTorch, or a file would take a minute. C++17: CMake before 3.28 does not know nvcc 13's C++20.
add_library(sao_cuda_kernels OBJECT src/ops/attention_cuda.cu src/ops/attention_mma_cuda.cu src/ops/log_probs_cuda.cu
                                    src/ops/paged_attention_cuda.cu src/ops/paged_decode_cuda.cu src/ops/pointwise_cuda.cu
                                    src/ops/sample_cuda.cu)
target_include_directories(sao_cuda_kernels PRIVATE src)
target_compile_options(sao_cuda_kernels PRIVATE -Xcompiler=-Wall,-Wextra $<$<BOOL:${SAO_WERROR}>:-Werror=all-warnings>)
set_target_properties(sao_cuda_kernels PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY None
                                                  POSITION_INDEPENDENT_CODE ON)
if(SAO_CCACHE AND PROJECT_IS_TOP_LEVEL)
  set_target_properties(sao_cuda_kernels PROPERTIES CUDA_COMPILER_LAUNCHER ${SAO_CCACHE})
endif()

add_library(sao_cuda MODULE src/ops/dispatch_cuda.cpp src/ops/stream_cuda.cpp $<TARGET_OBJECTS:sao_cuda_kernels>)
target_include_directories(sao_cuda PRIVATE include src)
target_link_libraries(sao_cuda PRIVATE sao_flags sao::torch_cuda)
target_link_options(sao_cuda PRIVATE LINKER:-Bsymbolic)  # never the symbols of the program that loads it
target_precompile_headers(sao_cuda REUSE_FROM sao_pch)
set_target_properties(sao_cuda PROPERTIES CUDA_RUNTIME_LIBRARY None DEFINE_SYMBOL ""
                                          LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
if(PROJECT_IS_TOP_LEVEL)
  install(TARGETS sao_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()

# Programs look for it from their own folder as installed, and where it was built.
target_sources(sao_ops PRIVATE src/ops/load_cuda.cpp)
set_source_files_properties(src/ops/load_cuda.cpp PROPERTIES COMPILE_DEFINITIONS SAO_LIBDIR="${CMAKE_INSTALL_LIBDIR}")
target_link_libraries(sao_ops PRIVATE ${CMAKE_DL_LIBS})
target_link_options(sao_ops INTERFACE $<BUILD_INTERFACE:LINKER:-rpath,${PROJECT_BINARY_DIR}/lib>
                    $<INSTALL_INTERFACE:LINKER:-rpath,$<INSTALL_PREFIX>/${CMAKE_INSTALL_LIBDIR}>)
