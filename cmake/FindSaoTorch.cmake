# SPDX-License-Identifier: Apache-2.0
# Finds LibTorch (a pip wheel, with or without its CUDA wheels, or a CPU-only tree) without TorchConfig.cmake,
# which insists on a CUDA toolkit where the wheel was built with CUDA.
#   in : SAO_TORCH_DIR (cache or environment), else the python3 on the PATH that can find torch
#   out: sao::torch, and sao::torch_cuda where libtorch_cuda and the CUDA runtime's headers are there;
#        SaoTorch_VERSION, SaoTorch_DIR_FOUND, SaoTorch_CUDA
set(_sao_torch_dir "${SAO_TORCH_DIR}")
if(NOT _sao_torch_dir AND DEFINED ENV{SAO_TORCH_DIR})
  set(_sao_torch_dir "$ENV{SAO_TORCH_DIR}")
endif()
if(NOT _sao_torch_dir)
  find_program(SAO_PYTHON NAMES python3 python)
  mark_as_advanced(SAO_PYTHON)
  if(SAO_PYTHON)  # find_spec does not import torch: milliseconds instead of seconds
    execute_process(
      COMMAND "${SAO_PYTHON}" -c
              "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
      OUTPUT_VARIABLE _sao_torch_dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()

# Remembered, so that a later re-run of CMake finds the same tree without the environment.
set(SAO_TORCH_DIR "${_sao_torch_dir}" CACHE PATH "LibTorch: the folder that holds its include/ and lib/" FORCE)

# What was found in another folder does not count any more.
if(DEFINED CACHE{SaoTorch_SEARCHED_DIR} AND NOT SaoTorch_SEARCHED_DIR STREQUAL _sao_torch_dir)
  unset(SaoTorch_INCLUDE_DIR CACHE)
  unset(SaoTorch_CUDA_INCLUDE CACHE)
  unset(SaoTorch_cudart CACHE)
  foreach(_library c10 torch_cpu torch c10_cuda torch_cuda)
    unset(SaoTorch_${_library}_LIBRARY CACHE)
  endforeach()
endif()
set(SaoTorch_SEARCHED_DIR "${_sao_torch_dir}" CACHE INTERNAL "")

find_path(SaoTorch_INCLUDE_DIR ATen/ATen.h HINTS "${_sao_torch_dir}/include" NO_DEFAULT_PATH)
foreach(_library c10 torch_cpu torch c10_cuda torch_cuda)
  find_library(SaoTorch_${_library}_LIBRARY ${_library} HINTS "${_sao_torch_dir}/lib" NO_DEFAULT_PATH)
  mark_as_advanced(SaoTorch_${_library}_LIBRARY)
endforeach()
mark_as_advanced(SaoTorch_INCLUDE_DIR)

set(_sao_torch_version_line "")
if(EXISTS "${_sao_torch_dir}/version.py")
  file(STRINGS "${_sao_torch_dir}/version.py" _sao_torch_version_line REGEX "__version__")
elseif(EXISTS "${_sao_torch_dir}/build-version")
  file(STRINGS "${_sao_torch_dir}/build-version" _sao_torch_version_line LIMIT_COUNT 1)
elseif(EXISTS "${SaoTorch_INCLUDE_DIR}/torch/headeronly/version.h")
  file(STRINGS "${SaoTorch_INCLUDE_DIR}/torch/headeronly/version.h" _sao_torch_version_line
       REGEX "define TORCH_VERSION ")
endif()
string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" SaoTorch_VERSION "${_sao_torch_version_line}")

set(_sao_torch_problem "no LibTorch found")
set(_sao_torch_abi_line "")
if(EXISTS "${_sao_torch_dir}/share/cmake/Torch/TorchConfig.cmake")
  file(STRINGS "${_sao_torch_dir}/share/cmake/Torch/TorchConfig.cmake" _sao_torch_abi_line REGEX "CXX11_ABI=0")
endif()
if(_sao_torch_abi_line)
  set(_sao_torch_problem "LibTorch ${SaoTorch_VERSION} in ${_sao_torch_dir} has the C++ ABI of before GCC 5 (CXX11_ABI=0)")
  set(SaoTorch_torch_cpu_LIBRARY SaoTorch-NOTFOUND)  # of this run; the cache keeps what was found
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  SaoTorch
  REQUIRED_VARS SaoTorch_torch_cpu_LIBRARY SaoTorch_c10_LIBRARY SaoTorch_INCLUDE_DIR
  VERSION_VAR SaoTorch_VERSION
  REASON_FAILURE_MESSAGE
    "${_sao_torch_problem}: give -D SAO_TORCH_DIR=<folder with include/ and lib/>, or put a python3 that has torch on the PATH, or let ./dev install one")
if(NOT SaoTorch_FOUND OR TARGET sao::torch)
  return()
endif()
set(SaoTorch_DIR_FOUND "${_sao_torch_dir}")

find_package(Threads REQUIRED)
# at::parallel_for is a template: without OpenMP in the code that uses it, it calls its function in one thread. The thread
# sanitizer does not know OpenMP's barriers.
if(NOT SAO_SANITIZE MATCHES "thread")
  find_package(OpenMP REQUIRED COMPONENTS CXX)
endif()
get_filename_component(_sao_torch_lib "${SaoTorch_torch_cpu_LIBRARY}" DIRECTORY)
file(GLOB _sao_nvidia_libs "${_sao_torch_dir}/../nvidia/*/lib")

add_library(sao::torch INTERFACE IMPORTED)
set_target_properties(
  sao::torch
  PROPERTIES INTERFACE_INCLUDE_DIRECTORIES
             "${SaoTorch_INCLUDE_DIR};${SaoTorch_INCLUDE_DIR}/torch/csrc/api/include"
             INTERFACE_COMPILE_FEATURES cxx_std_20
             INTERFACE_LINK_OPTIONS "LINKER:--allow-shlib-undefined;LINKER:--as-needed;LINKER:-rpath,${_sao_torch_lib}"
             INTERFACE_LINK_LIBRARIES
             "${SaoTorch_torch_cpu_LIBRARY};${SaoTorch_c10_LIBRARY};Threads::Threads")
# The flag alone: LibTorch has its own copy of the library, which goes first.
target_compile_options(sao::torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>)
target_link_options(sao::torch INTERFACE $<$<LINK_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>)

set(SaoTorch_CUDA OFF)
if(SaoTorch_torch_cuda_LIBRARY AND NOT "${SAO_CUDA}" STREQUAL "OFF")
  find_path(SaoTorch_CUDA_INCLUDE cuda_runtime_api.h
            HINTS ENV CUDA_HOME PATH_SUFFIXES include PATHS /usr/local/cuda/include)
  find_library(SaoTorch_cudart NAMES cudart libcudart.so.13 libcudart.so.12
               HINTS ${_sao_nvidia_libs} ENV CUDA_HOME PATH_SUFFIXES lib64 PATHS /usr/local/cuda/lib64)
  mark_as_advanced(SaoTorch_CUDA_INCLUDE SaoTorch_cudart)
  if(SaoTorch_CUDA_INCLUDE AND SaoTorch_cudart)
    set(SaoTorch_CUDA ON)
    add_library(sao::torch_cuda INTERFACE IMPORTED)
    set_target_properties(
      sao::torch_cuda
      PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${SaoTorch_CUDA_INCLUDE}"
                 INTERFACE_LINK_LIBRARIES
                 "sao::torch;-Wl,--no-as-needed;${SaoTorch_torch_cuda_LIBRARY};${SaoTorch_c10_cuda_LIBRARY};-Wl,--as-needed;${SaoTorch_cudart}")
  endif()
endif()
message(STATUS "LibTorch ${SaoTorch_VERSION} in ${_sao_torch_dir}; CUDA headers for it: ${SaoTorch_CUDA}")
