// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.cli;

import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedTensors;

/** The blocks' linear weights of a checkpoint, of which some or all may be quantized already. */
record StoredLinears(ModelCheckpoint checkpoint, WeightNames names) {

  int count() {
    return names.linears().size();
  }

  /** How many are not quantized. */
  int dense() {
    return (int)
        names.linears().stream()
            .filter(module -> !WeightNames.isQuantized(checkpoint, module))
            .count();
  }

  /** Whether the dense ones may be quantized so, beside those that are quantized already. */
  boolean fit(QuantizationConfig config) {
    return names.linears().stream()
        .allMatch(module -> config.fits(QuantizedTensors.storedBits(checkpoint, module.weight())));
  }
}
