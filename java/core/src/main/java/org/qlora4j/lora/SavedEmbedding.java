// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.lora;

import java.util.List;
import java.util.Map;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.TrainableModule;
import org.qlora4j.quant.DenseRows;

/**
 * Weights of the embedding and the head that PEFT saved along with an adapter. Those of the base
 * are left where they are; an adapter over others is one of another base.
 */
final class SavedEmbedding {
  private static final String WEIGHT = ".weight";

  private SavedEmbedding() {}

  /**
   * Compares them with the model's, which has a place for each.
   *
   * @throws InputException where one is not what the model has
   */
  static void check(
      KernelPack pack, PeftAdapterFile file, List<? extends TrainableModule> modules) {
    for (Map.Entry<String, TensorSource> each : file.saved().entrySet()) {
      TensorSource saved = each.getValue();
      TrainableModule module =
          modules.stream()
              .filter(m -> each.getKey().equals(m.name() + WEIGHT))
              .findFirst()
              .orElseThrow();
      if (!isSame(pack, saved, module)) {
        throw new InputException(
            saved.file()
                + ": tensor "
                + Text.quote(saved.name())
                + ": expected the values of the model, found others; merge the adapter into the"
                + " model (qlora4j merge), which takes them over, and use the result");
      }
    }
  }

  private static boolean isSame(KernelPack pack, TensorSource saved, TrainableModule module) {
    try (DenseRows rows = DenseRows.of(saved);
        DeviceBuffer memory =
            DeviceBuffer.allocate(
                pack, Math.multiplyExact(rows.comparedRows() * rows.cols(), Float.BYTES))) {
      return rows.areHeldAs(
          (first, count, held) -> {
            DeviceTensor frozen = DeviceTensor.of(memory, 0, DType.F32, count, rows.cols());
            module.copyWeight(first, frozen);
            float[] values = frozen.toFloats();
            System.arraycopy(values, 0, held, 0, values.length);
          });
    }
  }
}
