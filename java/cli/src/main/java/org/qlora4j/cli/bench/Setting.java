// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli.bench;

import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;

/**
 * What all measurements of operators share.
 *
 * @param pack measured
 * @param reference what is right
 * @param compute type of activations, and of libtorch's operands
 * @param repetitions of each measurement
 * @param machine how much memory goes through the caches
 * @param limits of the pack
 */
public record Setting(
    KernelPack pack,
    KernelPack reference,
    DType compute,
    int repetitions,
    Machine machine,
    Limits limits) {

  /** The line for what the pack does not do. */
  String notSupported(String what, UnsupportedOperationException reason) {
    return what
        + ": not supported by "
        + pack.name()
        + ": "
        + Text.oneLine(String.valueOf(reason.getMessage()));
  }
}
