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
import org.qlora4j.quant.FloatEncoding;

/**
 * Weights of the embedding and the head that PEFT saved along with an adapter. Those of the base
 * are left where they are; an adapter over others is one of another base.
 */
final class SavedEmbedding {
  private static final int CHUNK_ELEMENTS = 1 << 18;
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
    try (DenseRows rows = DenseRows.of(saved)) {
      int chunk = rows.rowsOf(CHUNK_ELEMENTS);
      int most = (int) Math.min(chunk, rows.rows());
      float[] values = new float[Math.toIntExact(most * rows.cols())];
      try (DeviceBuffer memory =
          DeviceBuffer.allocate(pack, Math.multiplyExact((long) values.length, Float.BYTES))) {
        for (long first = 0; first < rows.rows(); first += most) {
          int count = (int) Math.min(most, rows.rows() - first);
          rows.read(first, count, values);
          DeviceTensor frozen = DeviceTensor.of(memory, 0, DType.F32, count, rows.cols());
          module.copyWeight(first, frozen);
          float[] expected = frozen.toFloats();
          for (int i = 0; i < expected.length; i++) {
            if (!FloatEncoding.isHeldAs(values[i], expected[i])) {
              return false;
            }
          }
        }
      }
      return true;
    }
  }
}
