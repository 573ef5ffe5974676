# SPDX-License-Identifier: Apache-2.0
# Runs a program, which must succeed and print what matches EXPECTED.
# usage: cmake -D EXPECTED=<regular expression> -P run.cmake PROGRAM ARGUMENTS...
set(command "")
set(script_seen FALSE)
math(EXPR last "${CMAKE_ARGC} - 1")
foreach(i RANGE ${last})
  if(script_seen)
    list(APPEND command "${CMAKE_ARGV${i}}")
  elseif(CMAKE_ARGV${i} STREQUAL CMAKE_CURRENT_LIST_FILE)
    set(script_seen TRUE)
  endif()
endforeach()
execute_process(COMMAND ${command} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE errors)
if(NOT status EQUAL 0 OR NOT output MATCHES "${EXPECTED}")
  message(FATAL_ERROR "status ${status}, output:\n${output}\nexpected status 0 and ${EXPECTED}\n${errors}")
endif()
message("${output}")
