// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.common.Progress;
import org.qlora4j.data.ChatTemplate;
import org.qlora4j.data.Dataset;
import org.qlora4j.data.ExampleEncoder;
import org.qlora4j.data.ExampleReader;
import org.qlora4j.data.MicroBatch;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.lora.LoraConfig;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.FixtureFiles;

/**
 * On the example model and its reviews: the summed loss of packed rows and their gradients are
 * those of the examples one by one. A product's row does not depend on the other rows, so only the
 * order of sums differs: over about 2,000 label tokens in f64 for the loss, and over tokens in f32
 * for the gradients, sqrt(2000) 2^-24 = 2.7e-6 of the largest; ten times that is allowed.
 */
class PackingTest {
  private static final int SEQUENCE = 256;
  private static final int ROW = 1024;
  private static final int EXAMPLES = 40;
  private static final DecoderModel.StepOptions OPTIONS = new DecoderModel.StepOptions(true, 64);

  @Test
  void lossAndGradientsAreThoseOfTheExamplesAlone() {
    Path base = FixtureFiles.project("examples/model");
    Dataset dataset = dataset(base);
    Dataset packed = dataset.packed(ROW);
    assertTrue(
        packed.rows() * 3 < dataset.rows(), dataset.rows() + " in " + packed.rows() + " rows");
    ModelConfig config = ModelConfig.read(base);
    try (KernelPack pack = KernelPack.openAutomatic();
        ModelCheckpoint checkpoint = ModelCheckpoint.open(base);
        DecoderModel model =
            ModelLoader.load(
                pack,
                config,
                checkpoint,
                new ModelLoader.Options(DType.F32, QuantizationConfig.nf4(), false),
                Progress.none());
        LoraAdapter adapter =
            LoraAdapter.allocate(
                pack, new LoraConfig(4, 8, 0, false, List.of()), model.linears())) {
      adapter.initialise(1);
      adapter.attach(model.linears());
      Random random = new Random(1);
      for (Parameter parameter : adapter.parameters().parameters()) {
        float[] values = new float[(int) parameter.value().elements()];
        for (int i = 0; i < values.length; i++) {
          values[i] = (float) random.nextGaussian() * 0.02f;
        }
        parameter.value().copyFrom(values);
      }
      adapter.parameters().allocateGradients();
      float scale = 1f / dataset.labelTokens();
      double alone = pass(model, adapter, dataset.inOrder(1), scale);
      List<float[]> expected = gradients(adapter);
      double together = pass(model, adapter, packed.inOrder(1), scale);
      assertEquals(alone, together, 1e-6 * alone, "loss");
      compare(expected, gradients(adapter), adapter);

      // The test can fail: rows whose sequences do see each other have another loss.
      List<MicroBatch> merged = new ArrayList<>();
      for (MicroBatch row : packed.inOrder(1)) {
        merged.add(
            new MicroBatch(
                row.ids(), row.labels(), row.positions(), new int[] {0, row.ids().length}));
      }
      double mixed = pass(model, adapter, merged, scale);
      assertTrue(Math.abs(mixed - alone) > 1e-3 * alone, mixed + " beside " + alone);
    }
  }

  private static Dataset dataset(Path base) {
    try (Tokenizer tokenizer = Tokenizer.load(base)) {
      ExampleEncoder encoder =
          new ExampleEncoder(
              tokenizer, ChatTemplate.of("tokenizer", tokenizer), SEQUENCE, false, true);
      return new Dataset(
          encoder.encodeAll(
              new ExampleReader("alpaca")
                  .read(FixtureFiles.project("examples/data/blog-reviews.jsonl"))
                  .subList(0, EXAMPLES)));
    }
  }

  private static double pass(
      DecoderModel model, LoraAdapter adapter, Iterable<MicroBatch> batches, float scale) {
    adapter.parameters().zeroGradients();
    double sum = 0;
    try (TensorArena arena = new TensorArena(model.pack())) {
      Pass pass = new Pass(model.pack(), arena, DType.F32, LoraCompute.FAST, 0, 0, 0, true);
      for (MicroBatch batch : batches) {
        var mark = arena.mark();
        sum +=
            model.trainingStep(
                pass,
                SequenceBatch.of(arena, batch.ids(), batch.positions(), batch.cuSeqlens()),
                batch.labels(),
                scale,
                OPTIONS);
        arena.release(mark);
      }
    }
    return sum;
  }

  private static List<float[]> gradients(LoraAdapter adapter) {
    return adapter.parameters().parameters().stream().map(p -> p.gradient().toFloats()).toList();
  }

  private static void compare(List<float[]> expected, List<float[]> actual, LoraAdapter adapter) {
    double worst = 0;
    for (int i = 0; i < expected.size(); i++) {
      double largest = 0;
      double difference = 0;
      for (int j = 0; j < expected.get(i).length; j++) {
        largest = Math.max(largest, Math.abs(expected.get(i)[j]));
        difference = Math.max(difference, Math.abs(expected.get(i)[j] - actual.get(i)[j]));
      }
      String name = adapter.parameters().parameters().get(i).name();
      assertTrue(largest > 0, name + " has a gradient");
      assertTrue(difference <= 2.7e-5 * largest, name + ": " + difference + " of " + largest);
      worst = Math.max(worst, difference / largest);
    }
    System.out.println("packed gradients: worst difference " + worst + " of the largest");
  }
}
