// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.model;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.CrossEntropy;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.model.CheckpointSave;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.KvCache;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.Pass;
import org.qlora4j.model.SequenceBatch;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureTest;
import org.qlora4j.tests.support.Fixtures;

/**
 * Whole models against transformers: logits, in one pass and decoded against a cache, the loss,
 * padded batches, and the norm of every parameter's gradient. Tolerances are those of the fixtures'
 * own page: fp32 logits 2e-5 absolute, loss 2e-6, gradient norms 1e-4 relative; bf16 logits 0.1,
 * loss 1e-2 (every operator rounds to 8 bits).
 */
class ModelFixtureTest extends FixtureTest {
  ModelFixtureTest() {
    super("models");
  }

  @Override
  protected List<String> names(Fixtures fixtures) {
    return fixtures.folders();
  }

  @Override
  protected List<String> operators(String name) {
    return List.of(
        "linear_forward",
        "rms_norm_forward",
        "layer_norm_forward",
        "rotary",
        "activation_forward",
        "cross_entropy");
  }

  @Override
  protected boolean usesLibtorch() {
    return true;
  }

  @Override
  protected void check(Fixtures fixtures, String name, DeviceMemory memory) {
    Path folder = fixtures.use(name);
    ModelConfig config = ModelConfig.read(folder);
    Path legacy = folder.resolve("config_legacy.json");
    if (Files.exists(legacy)) {
      assertEquals(config, ModelConfig.readFile(legacy), "the older keys mean the same");
    }
    try (SafetensorsFile expected = SafetensorsFile.open(folder.resolve("expected.safetensors"));
        ModelCheckpoint checkpoint = ModelCheckpoint.open(folder);
        TensorArena arena = new TensorArena(memory.pack())) {
      Batch whole = Batch.rows(expected, "input_ids", "labels", null, null);
      Pass pass = Pass.inference(memory.pack(), arena, DType.F32, LoraCompute.FAST);
      try (DecoderModel model = load(memory, config, checkpoint, DType.F32, false)) {
        logits(name, model, pass, whole, expected.tensor("logits"), 2e-5);
        loss(model, pass, whole, expected.tensor("loss"), 2e-6);
        decoding(name, model, pass, expected);
        if (expected.find("padright.labels") != null) {
          padded(name, expected, model, pass);
        }
      }
      if (expected.find("logits_bf16_compute") != null) {
        Pass bf16 = Pass.inference(memory.pack(), arena, DType.BF16, LoraCompute.FAST);
        try (DecoderModel model = load(memory, config, checkpoint, DType.BF16, false)) {
          logits(name, model, bf16, whole, expected.tensor("logits_bf16_compute"), 0.1);
          loss(model, bf16, whole, expected.tensor("loss_bf16_compute"), 1e-2);
        }
      }
      gradients(memory, config, checkpoint, expected, arena, whole);
    }
  }

  private static DecoderModel load(
      DeviceMemory memory,
      ModelConfig config,
      ModelCheckpoint checkpoint,
      DType compute,
      boolean train) {
    return ModelLoader.load(
        memory.pack(),
        config,
        checkpoint,
        new ModelLoader.Options(compute, null, train),
        Progress.none());
  }

  private static void logits(
      String name,
      DecoderModel model,
      Pass pass,
      Batch batch,
      TensorSource expected,
      double tolerance) {
    var mark = pass.arena().mark();
    DeviceTensor hidden = model.forward(pass, batch.on(pass.arena()), null);
    assertClose(name, expected, model.logits(pass, hidden), tolerance);
    pass.arena().release(mark);
  }

  /** Logits have one scale, so the bound is the same for all of them. */
  private static void assertClose(
      String name, TensorSource expected, DeviceTensor actual, double tolerance) {
    float[] wanted = expected.toFloats();
    float[] found = actual.toFloats();
    assertEquals(wanted.length, found.length, name + " " + expected.name());
    for (int i = 0; i < wanted.length; i++) {
      assertEquals(wanted[i], found[i], tolerance, name + " " + expected.name() + " at " + i);
    }
  }

  /** The first row again, its first tokens in one pass and the rest one by one against a cache. */
  private static void decoding(
      String name, DecoderModel model, Pass pass, SafetensorsFile expected) {
    int[] ids = Batch.rows(expected, "input_ids", "labels", null, null).ids();
    int length = (int) expected.tensor("input_ids").shape()[1];
    float[] wanted = expected.tensor("logits").toFloats();
    int vocabulary = model.config().vocabSize();
    int prompt = 4;
    try (KvCache cache = new KvCache(pass.pack(), model.config(), pass.compute(), length)) {
      while (cache.length() < length) {
        int first = cache.length();
        int end = Math.max(prompt, first + 1);
        var mark = pass.arena().mark();
        SequenceBatch batch =
            SequenceBatch.single(pass.arena(), Arrays.copyOfRange(ids, first, end), first);
        float[] found = model.logits(pass, model.forward(pass, batch, cache)).toFloats();
        for (int i = 0; i < found.length; i++) {
          assertEquals(
              wanted[first * vocabulary + i], found[i], 2e-5, name + ": decoding token " + end);
        }
        pass.arena().release(mark);
      }
    }
  }

  private static void loss(
      DecoderModel model, Pass pass, Batch batch, TensorSource expected, double tolerance) {
    var mark = pass.arena().mark();
    // An odd chunk, so that the last one is smaller.
    double loss = model.loss(pass, batch.on(pass.arena()), batch.labels(), 7) / batch.labelTokens();
    assertEquals(expected.toFloats()[0], loss, tolerance, expected.name());
    pass.arena().release(mark);
  }

  /**
   * Padding does not exist here: the padded tokens are left out, and a left-padded row keeps the
   * positions it was given.
   */
  private static void padded(String name, SafetensorsFile expected, DecoderModel model, Pass pass) {
    Batch right =
        Batch.rows(expected, "input_ids", "padright.labels", "padright.attention_mask", null);
    loss(model, pass, right, expected.tensor("padright.loss"), 2e-6);
    Batch left =
        Batch.rows(expected, "input_ids", "padleft.labels", "padleft.attention_mask", null);
    loss(model, pass, left, expected.tensor("padleft.loss"), 2e-6);
    Batch explicit =
        Batch.rows(
            expected,
            "input_ids",
            "padleft.labels",
            "padleft.attention_mask",
            "padleft_positions.position_ids");
    loss(model, pass, explicit, expected.tensor("padleft_positions.loss"), 2e-6);

    TensorSource last = expected.tensor("padleft_positions.logits_row1_last4");
    int rows = (int) last.shape()[0];
    var mark = pass.arena().mark();
    DeviceTensor hidden = model.forward(pass, explicit.on(pass.arena()), null);
    assertClose(name, last, model.logits(pass, hidden.rows(hidden.rows() - rows, rows)), 2e-5);
    pass.arena().release(mark);
  }

  private static void gradients(
      DeviceMemory memory,
      ModelConfig config,
      ModelCheckpoint checkpoint,
      SafetensorsFile expected,
      TensorArena arena,
      Batch batch) {
    try (DecoderModel model = load(memory, config, checkpoint, DType.F32, true)) {
      ParameterSet weights = Objects.requireNonNull(model.weights());
      weights.allocateGradients();
      Pass pass = new Pass(memory.pack(), arena, DType.F32, LoraCompute.FAST, 0, 0, 0, true);
      for (DecoderModel.StepOptions options :
          List.of(
              new DecoderModel.StepOptions(false, 11),
              new DecoderModel.StepOptions(true, 11),
              new DecoderModel.StepOptions(
                  true, 1, EnumSet.allOf(CheckpointSave.class), 11, null))) {
        weights.zeroGradients();
        var mark = arena.mark();
        model.trainingStep(
            pass, batch.on(arena), batch.labels(), 1f / batch.labelTokens(), options);
        arena.release(mark);
        for (Parameter parameter : weights.parameters()) {
          double norm = expected.tensor("grad_l2." + parameter.name()).toFloats()[0];
          assertEquals(norm, l2(parameter.gradient().toFloats()), 1e-4 * norm, parameter.name());
        }
      }
    }
  }

  private static double l2(float[] values) {
    double sum = 0;
    for (float value : values) {
      sum += (double) value * value;
    }
    return Math.sqrt(sum);
  }

  /** A fixture's rows without their padding, as sequences one after the other. */
  private record Batch(int[] ids, int[] labels, int[] positions, int[] cuSeqlens) {

    static Batch rows(
        SafetensorsFile file,
        String ids,
        String labels,
        @Nullable String mask,
        @Nullable String positions) {
      long[] shape = file.tensor(ids).shape();
      int rows = (int) shape[0];
      int cols = (int) shape[1];
      long[] id = file.tensor(ids).toLongs();
      long[] label = file.tensor(labels).toLongs();
      long[] kept = mask == null ? null : file.tensor(mask).toLongs();
      long[] place = positions == null ? null : file.tensor(positions).toLongs();
      int count = 0;
      for (int i = 0; i < id.length; i++) {
        count += kept == null || kept[i] == 1 ? 1 : 0;
      }
      Batch batch = new Batch(new int[count], new int[count], new int[count], new int[rows + 1]);
      int at = 0;
      for (int row = 0; row < rows; row++) {
        for (int col = 0; col < cols; col++) {
          int i = row * cols + col;
          if (kept != null && kept[i] == 0) {
            continue;
          }
          boolean followed = col + 1 < cols && (kept == null || kept[i + 1] == 1);
          batch.ids[at] = (int) id[i];
          batch.labels[at] = followed ? (int) label[i + 1] : CrossEntropy.IGNORE;
          batch.positions[at] = place == null ? col : (int) place[i];
          at++;
        }
        batch.cuSeqlens[row + 1] = at;
      }
      return batch;
    }

    SequenceBatch on(TensorArena arena) {
      return SequenceBatch.of(arena, ids, positions, cuSeqlens);
    }

    int labelTokens() {
      int count = 0;
      for (int label : labels) {
        count += label == CrossEntropy.IGNORE ? 0 : 1;
      }
      return count;
    }
  }
}
