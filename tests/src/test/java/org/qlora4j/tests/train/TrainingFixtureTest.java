// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Assumptions;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.Progress;
import org.qlora4j.data.MicroBatch;
import org.qlora4j.kernels.CrossEntropy;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.LoraCompute;
import org.qlora4j.lora.LoraAdapter;
import org.qlora4j.model.DecoderModel;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.ModelLoader;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.Pass;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tensor.TensorArena;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.FixtureTest;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.train.AdamWOptimizer;
import org.qlora4j.train.Trainer;

/**
 * Ten optimizer steps against PEFT over bitsandbytes: loss and gradient norm of every step, the
 * first step's gradients, and the final adapter or weights. Tolerances are those of the fixtures'
 * own page, which derives them from runs with perturbed inputs.
 */
class TrainingFixtureTest extends FixtureTest {

  /** One run of each compute type, for packs whose every step takes seconds. */
  private static final List<String> ON_SLOW_PACKS = List.of("llama_nf4_f32", "llama_nf4_bf16");

  /** Bounds of one kind of run. */
  private record Bounds(double loss, double gradNorm, double firstGradient, double finalUpdate) {
    static Bounds of(boolean bf16, boolean full) {
      return bf16
          ? new Bounds(2e-2, 2e-2, 5e-2, 1e-1)
          : new Bounds(full ? 5e-5 : 1e-5, 1e-4, 1e-4, full ? 2e-3 : 1e-3);
    }
  }

  TrainingFixtureTest() {
    super("training");
  }

  @Override
  protected List<String> names(Fixtures fixtures) {
    return fixtures.folders();
  }

  @Override
  protected List<String> operators(String name) {
    return List.of(
        "linear_forward",
        "linear_backward_input",
        "lora_weight_gradient",
        "rms_norm_forward",
        "rms_norm_backward",
        "rotary",
        "activation_forward",
        "activation_backward",
        "cross_entropy",
        "gradient_norm",
        "adamw");
  }

  @Override
  protected boolean usesLibtorch() {
    return true;
  }

  @Override
  protected void check(Fixtures fixtures, String name, DeviceMemory memory) {
    Assumptions.assumeTrue(
        !Packs.isSlow(memory.pack()) || ON_SLOW_PACKS.contains(name),
        () -> memory.pack().name() + " simulates a GPU: only " + ON_SLOW_PACKS);
    JsonNode entry = fixtures.index().path(name);
    boolean full = entry.path("full_finetuning").asBoolean();
    boolean bf16 = entry.path("compute").asText().equals("bfloat16");
    String modelName = entry.path("model").asText();
    Path folder = fixtures.use(name);
    Path modelFolder = FixtureFiles.reference("models/" + modelName);
    DType compute = bf16 ? DType.BF16 : DType.F32;
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(modelFolder);
        SafetensorsFile trajectory =
            SafetensorsFile.open(folder.resolve("trajectory.safetensors"));
        SafetensorsFile batches = SafetensorsFile.open(folder.resolve("batches.safetensors"));
        TensorArena arena = new TensorArena(memory.pack());
        DecoderModel model =
            full
                ? ModelLoader.load(
                    memory.pack(),
                    ModelConfig.read(modelFolder),
                    checkpoint,
                    new ModelLoader.Options(compute, null, true),
                    Progress.none())
                : quantized(fixtures, memory, modelName, modelFolder, checkpoint, compute)) {
      LoraAdapter adapter =
          full
              ? null
              : LoraAdapter.load(memory.pack(), folder.resolve("adapter_initial"), model.linears());
      ParameterSet trained =
          adapter == null ? Objects.requireNonNull(model.weights()) : adapter.parameters();
      trained.allocateGradients();
      List<float[]> initial = trained.parameters().stream().map(p -> p.value().toFloats()).toList();
      Bounds bounds = Bounds.of(bf16, full);
      // The peer's settings, from the fixtures' page.
      AdamWOptimizer.Settings settings = new AdamWOptimizer.Settings(0.9, 0.999, 1e-8, 0.01, 0.3);
      try (AdamWOptimizer optimizer = new AdamWOptimizer(memory.pack(), trained, settings)) {
        double[] rates = trajectory.tensor("learning_rate").toDoubles();
        // The peer's adapters compute in f32 on a bf16 base, which is lora_compute: float32.
        Pass pass = new Pass(memory.pack(), arena, compute, LoraCompute.F32, 0, 0, 0, true);
        Trainer trainer =
            new Trainer(
                model,
                trained,
                optimizer,
                s -> rates[s],
                pass,
                new DecoderModel.StepOptions(true, 16));
        double[] losses = trajectory.tensor("loss").toDoubles();
        double[] norms = trajectory.tensor("grad_norm_before_clip").toDoubles();
        long[] labelTokens = trajectory.tensor("label_tokens").toLongs();
        for (int step = 0; step < losses.length; step++) {
          Trainer.StepResult result = trainer.step(step, microBatches(batches, step));
          String where = name + " step " + step + " on " + memory.pack().name();
          assertEquals(labelTokens[step], result.labelTokens(), where);
          assertEquals(losses[step], result.loss(), bounds.loss(), where);
          assertEquals(norms[step], result.gradNorm(), bounds.gradNorm() * norms[step], where);
          if (step == 0) {
            firstGradients(trajectory, trained, bounds.firstGradient(), bf16, where);
          }
        }
        finalValues(folder, full, trained, initial, bounds.finalUpdate(), name);
      } finally {
        if (adapter != null) {
          adapter.close();
        }
      }
    }
  }

  /**
   * The model with the fixture's own codes, so that a difference in quantization cannot hide behind
   * training.
   */
  private static DecoderModel quantized(
      Fixtures fixtures,
      DeviceMemory memory,
      String modelName,
      Path modelFolder,
      ModelCheckpoint checkpoint,
      DType compute) {
    QuantizationConfig nf4 = QuantizationConfig.nf4();
    try (SafetensorsFile base = fixtures.open("base_" + modelName + "_nf4_dq")) {
      return ModelLoader.load(
          memory.pack(),
          ModelConfig.read(modelFolder),
          checkpoint,
          new ModelLoader.Options(compute, nf4, false),
          module -> {
            DType original = checkpoint.tensor(module.weight()).dtype();
            float offset = base.tensor(module.path() + ".nested_offset").toFloats()[0];
            QuantizedWeight weight =
                QuantizedWeight.allocate(
                    memory.pack(), nf4, original, module.rows(), module.cols(), offset);
            weight.codes().copyFrom(base.tensor(module.path() + ".packed").toBytes());
            weight.absmax().copyFrom(base.tensor(module.path() + ".absmax").toBytes());
            Objects.requireNonNull(weight.nestedAbsmax())
                .copyFrom(base.tensor(module.path() + ".nested_absmax").toFloats());
            return weight;
          },
          Progress.none());
    }
  }

  private static List<MicroBatch> microBatches(SafetensorsFile batches, int step) {
    String key = "step" + step;
    if (batches.find(key + ".input_ids") != null) {
      return List.of(microBatch(batches, key));
    }
    List<MicroBatch> all = new ArrayList<>();
    for (int j = 0; batches.find(key + ".micro" + j + ".input_ids") != null; j++) {
      all.add(microBatch(batches, key + ".micro" + j));
    }
    return all;
  }

  private static MicroBatch microBatch(SafetensorsFile batches, String key) {
    TensorSource source = batches.tensor(key + ".input_ids");
    int rows = (int) source.shape()[0];
    int cols = (int) source.shape()[1];
    long[] ids = source.toLongs();
    long[] labels = batches.tensor(key + ".labels").toLongs();
    MicroBatch batch =
        new MicroBatch(
            new int[rows * cols], new int[rows * cols], new int[rows * cols], new int[rows + 1]);
    for (int i = 0; i < ids.length; i++) {
      int col = i % cols;
      batch.ids()[i] = (int) ids[i];
      batch.labels()[i] = col + 1 < cols ? (int) labels[i + 1] : CrossEntropy.IGNORE;
      batch.positions()[i] = col;
    }
    for (int row = 0; row <= rows; row++) {
      batch.cuSeqlens()[row] = row * cols;
    }
    return batch;
  }

  /** fp32: every tensor by itself; bf16: all tensors together, as the fixtures' page has it. */
  private static void firstGradients(
      SafetensorsFile trajectory,
      ParameterSet trained,
      double bound,
      boolean together,
      String where) {
    double allDifference = 0;
    double allSquares = 0;
    int compared = 0;
    for (Parameter parameter : trained.parameters()) {
      TensorSource expected = trajectory.find("grad." + gradientName(parameter.name()));
      TensorSource norm = trajectory.find("grad_l2." + parameter.name());
      float[] actual = parameter.gradient().toFloats();
      if (norm != null) {
        double l2 = norm.toFloats()[0];
        assertEquals(
            l2, Math.sqrt(squares(actual, null)), bound * l2, where + " " + parameter.name());
      }
      if (expected == null) {
        continue;
      }
      compared++;
      float[] values = expected.toFloats();
      double difference = squares(actual, values);
      double squares = squares(values, null);
      allDifference += difference;
      allSquares += squares;
      if (!together) {
        assertTrue(
            Math.sqrt(difference) <= bound * Math.sqrt(squares),
            () ->
                where
                    + ": first gradient of "
                    + parameter.name()
                    + " is off by "
                    + Math.sqrt(difference) / Math.sqrt(squares)
                    + " of its norm");
      }
    }
    assertTrue(compared > 0, where + ": no first gradients in the fixture");
    double relative = Math.sqrt(allDifference / allSquares);
    assertTrue(
        relative <= bound,
        () -> where + ": first gradients are off by " + relative + " of their norm");
  }

  private static String gradientName(String parameter) {
    return parameter.startsWith(PeftAdapterFile.PREFIX)
        ? parameter
            .substring(PeftAdapterFile.PREFIX.length())
            .replaceFirst("(lora_[AB])\\.weight$", "$1")
        : parameter;
  }

  /** The L2 distance to the expected result, as a share of the L2 of the update. */
  private static void finalValues(
      Path folder,
      boolean full,
      ParameterSet trained,
      List<float[]> initial,
      double bound,
      String name) {
    double difference = 0;
    double update = 0;
    int compared = 0;
    Path file =
        folder.resolve(
            full ? "final_weights.safetensors" : "adapter_final/adapter_model.safetensors");
    try (SafetensorsFile expected = SafetensorsFile.open(file)) {
      for (int i = 0; i < trained.parameters().size(); i++) {
        Parameter parameter = trained.parameters().get(i);
        TensorSource tensor = expected.find(parameter.name());
        float[] actual = parameter.value().toFloats();
        if (tensor != null) {
          compared++;
          difference += squares(actual, tensor.toFloats());
          update += squares(initial.get(i), tensor.toFloats());
        } else {
          double l2 = expected.tensor("l2." + parameter.name()).toFloats()[0];
          assertEquals(
              l2, Math.sqrt(squares(actual, null)), 1e-4 * l2, name + " " + parameter.name());
        }
      }
    }
    assertTrue(compared > 0, name + ": no final tensors in the fixture");
    double relative = Math.sqrt(difference / update);
    assertTrue(relative <= bound, name + ": the result is off by " + relative + " of the update");
  }

  private static double squares(float[] a, float @Nullable [] b) {
    double sum = 0;
    for (int i = 0; i < a.length; i++) {
      double d = b == null ? a[i] : (double) a[i] - b[i];
      sum += d * d;
    }
    return sum;
  }
}
