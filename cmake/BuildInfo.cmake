# Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
#
# Run as a script at every build: cmake -DROOT=<project> -DOUT=<folder> -P BuildInfo.cmake
#
# Writes q4j_build_info.h and build.properties. `sources` identifies what the libraries are built from, uncommitted edits
# included: SHA-256 over the lines "<sha256 of the file>  <path>\n" of all files below, sorted by path, cut to 16 digits. The test
# NativeBuildTest computes the same from the tree.
cmake_minimum_required(VERSION 3.24)

file(
  GLOB_RECURSE files
  RELATIVE ${ROOT}
  ${ROOT}/native/include/*
  ${ROOT}/native/src/*
  ${ROOT}/cuda/src/*
  ${ROOT}/cmake/*)
list(APPEND files native/CMakeLists.txt cuda/CMakeLists.txt)
list(SORT files COMPARE STRING)
set(lines "")
foreach(file IN LISTS files)
  file(SHA256 ${ROOT}/${file} hash)
  string(APPEND lines "${hash}  ${file}\n")
endforeach()
string(SHA256 sources "${lines}")
string(SUBSTRING ${sources} 0 16 sources)

set(revision unknown)
find_program(git git)
if(git)
  execute_process(
    COMMAND ${git} -C ${ROOT} rev-parse --short=12 HEAD
    OUTPUT_VARIABLE head
    RESULT_VARIABLE result
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(result EQUAL 0)
    set(revision ${head})
  endif()
endif()

file(CONFIGURE OUTPUT ${OUT}/q4j_build_info.h
     CONTENT "// Written by cmake/BuildInfo.cmake.
#ifndef QLORA4J_BUILD_INFO_H_
#define QLORA4J_BUILD_INFO_H_

#define Q4J_REVISION \"@revision@\"
#define Q4J_SOURCES \"@sources@\"

#endif  // QLORA4J_BUILD_INFO_H_
" @ONLY)
file(CONFIGURE OUTPUT ${OUT}/build.properties CONTENT "revision=@revision@\nsources=@sources@\n" @ONLY)
