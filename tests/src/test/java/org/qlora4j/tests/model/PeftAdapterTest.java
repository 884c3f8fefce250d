// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;

import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Objects;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tensor.TensorArena;

/**
 * An adapter that this project wrote, over the example model, gives the logits that PEFT computes
 * with the same files.
 */
class PeftAdapterTest {

  /**
   * Logits reach 26; an fp32 sum of 256 to 512 terms errs by about 2^-24 * sqrt(512) * 26 = 4e-5, a
   * dozen such sums follow each other along four layers, and the largest of 18,000 logits lies
   * about four deviations out.
   */
  private static final float TOLERANCE = 5e-4f;

  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void logitsEqualPeft(boolean quantized) throws URISyntaxException {
    Path folder =
        Path.of(
                Objects.requireNonNull(
                        PeftAdapterTest.class.getResource("/peft_adapter/adapter_config.json"))
                    .toURI())
            .resolveSibling(".")
            .normalize();
    Path base = Path.of(System.getProperty("qlora4j.root", "..")).resolve("examples/model");
    try (KernelPack pack = KernelPack.openAutomatic();
        TensorArena arena = new TensorArena(pack);
        ModelCheckpoint checkpoint = ModelCheckpoint.open(base);
        SafetensorsFile expected = SafetensorsFile.open(folder.resolve("expected.safetensors"));
        DecoderModel model =
            ModelLoader.load(
                pack,
                ModelConfig.read(base),
                checkpoint,
                new ModelLoader.Options(
                    DType.F32, quantized ? QuantizationConfig.nf4() : null, false),
                Progress.none());
        LoraAdapter adapter = LoraAdapter.load(pack, folder, model.linears())) {
      int[] ids =
          Arrays.stream(expected.tensor("input_ids").toLongs()).mapToInt(id -> (int) id).toArray();
      Pass pass = Pass.inference(pack, arena, DType.F32, LoraCompute.F32);
      DeviceTensor hidden = model.forward(pass, SequenceBatch.single(arena, ids, 0), null);
      DeviceTensor last = model.logits(pass, hidden.rows(ids.length - 4L, 4));
      assertArrayEquals(
          expected.tensor(quantized ? "logits_nf4_last4" : "logits_last4").toFloats(),
          last.toFloats(),
          TOLERANCE);
    }
  }
}
