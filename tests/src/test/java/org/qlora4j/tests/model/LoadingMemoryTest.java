// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.model;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tests.support.SmallModel;

/**
 * What loading allocates on the device: what is kept, and while quantizing at most one tensor more.
 */
class LoadingMemoryTest {

  /**
   * The largest workspace an operator takes while quantizing: one f32 a block for the absmax before
   * it is coded.
   */
  private static final long WORKSPACE = 1 << 20;

  @Test
  void quantizingHoldsOneTensorBesidesTheResult(@TempDir Path directory) {
    ModelConfig config = SmallModel.write(directory, SmallModel.llama(512, 1024, 3, 8, 4, 2816), 1);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(directory);
        KernelPack pack = KernelPack.openAutomatic()) {
      long largest =
          checkpoint.tensors().stream().mapToLong(TensorSource::bytes).max().orElseThrow();
      pack.resetPeak();
      try (DecoderModel model =
          ModelLoader.load(
              pack,
              config,
              checkpoint,
              new ModelLoader.Options(DType.BF16, QuantizationConfig.nf4(), false),
              Progress.none())) {
        long kept = pack.allocatedBytes();
        assertTrue(
            pack.peakAllocatedBytes() <= kept + largest + WORKSPACE,
            "peak " + pack.peakAllocatedBytes() + ", kept " + kept + ", largest tensor " + largest);
        // 4 bits, 8 a block of 64, 32 a block of 256 blocks: 4.127 bits a parameter, and the rest
        // in 16 bits.
        long linear = 3L * (2 * 1024 * 1024 + 2 * 512 * 1024 + 3 * 2816 * 1024);
        long dense = 2L * (2 * 512 * 1024);
        double expected = (double) linear * (4 + 8 / 64.0 + 32 / (64.0 * 256)) / 8 + dense;
        assertEquals(expected, (double) model.weightBytes(), 0.001 * expected);
        assertTrue(
            kept <= 1.01 * expected + WORKSPACE, "kept " + kept + ", the weights are " + expected);
      }
      assertTrue(
          pack.allocatedBytes() <= WORKSPACE, "everything is released: " + pack.allocatedBytes());
    }
  }
}
