// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.data.Tokenizer;
import org.qlora4j.kernels.DType;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.RandomCheckpoint;
import org.qlora4j.train.TrainConfig;
import org.qlora4j.train.TrainConfigReader;
import org.qlora4j.train.TrainingRun;
import org.qlora4j.train.TrainingSummary;

/**
 * What a training really takes at the shape of a model that is not at hand: two steps with random
 * weights, in a process of its own.
 */
public final class ShapeMeasurement {
  /** The second step is the first with optimizer states. */
  private static final int STEPS = 2;

  private static final int TEXT_BYTES = 2 << 20;
  private static final long SHARD_BYTES = 5_000_000_000L;
  private static final String MAKE = "make";
  private static final String MEASURE = "measure";

  private ShapeMeasurement() {}

  /**
   * What was used.
   *
   * @param peakBytes VmHWM of the process
   * @param plannedBytes what that process planned
   * @param secondsPerStep mean of the two steps
   */
  public record Used(long peakBytes, long plannedBytes, double secondsPerStep) {}

  /**
   * What to measure.
   *
   * @param config a config.json
   * @param storedAs type of the weights in the file, or null: as the config says
   * @param tokenizer a directory with tokenizer.json
   * @param examples a file whose beginning is trained on as plain text
   * @param sequence tokens of a sequence
   * @param batch sequences of a micro-batch
   */
  public record Shape(
      Path config,
      @Nullable DType storedAs,
      Path tokenizer,
      Path examples,
      int sequence,
      int batch) {}

  /**
   * Measures, or gives what an earlier call with the same question found. The model with random
   * weights stays in {@code directory}, for other methods.
   *
   * @param name of the method, for messages and files
   * @param training keys of a training configuration
   * @param pack the kernel pack's name
   */
  public static Used measure(
      String name,
      Shape shape,
      ObjectNode training,
      String pack,
      Path directory,
      Progress progress) {
    if (!Tokenizer.exists(shape.tokenizer())) {
      throw new InputException("no tokenizer.json in " + shape.tokenizer());
    }
    ModelConfig model = ModelConfig.readFile(shape.config());
    DType declared = model.dtype() == null ? DType.BF16 : model.dtype();
    DType stored = shape.storedAs() == null ? declared : shape.storedAs();
    Path target = directory.resolve("model-" + stored.name().toLowerCase(Locale.ROOT));
    ObjectNode make = Json.newObject().put("config", shape.config().toString());
    make.put("shape", model.toString()).put("stored_as", stored.name());
    make.put("tokenizer", shape.tokenizer().toString()).put("target", target.toString());
    ChildTask.answered(
        ShapeMeasurement.class,
        MAKE,
        make,
        directory.resolve(target.getFileName() + "-made"),
        progress,
        name);
    Path work = directory.resolve(ChildTask.directoryName(name));
    ObjectNode request = Json.newObject().put("shape", model.toString()).put("pack", pack);
    request.put("directory", work.resolve("run").toString()).put("where", name);
    request.set("training", keys(shape, training, target, text(shape.examples(), directory), work));
    ObjectNode used =
        ChildTask.answered(ShapeMeasurement.class, MEASURE, request, work, progress, name);
    return new Used(
        used.path("peak_bytes").asLong(),
        used.path("planned_bytes").asLong(),
        used.path("seconds_per_step").asDouble());
  }

  private static ObjectNode keys(
      Shape shape, ObjectNode training, Path model, Path text, Path work) {
    ObjectNode keys = training.deepCopy();
    keys.remove(List.of("eval_file", "val_set_size", "warmup_ratio", "num_train_epochs"));
    keys.put("model", model.toString()).put("train_file", text.toString());
    keys.put("output_dir", work.resolve("run").toString());
    keys.put("sequence_length", shape.sequence());
    keys.put("per_device_train_batch_size", shape.batch()).put("gradient_accumulation_steps", 1);
    keys.put("max_steps", STEPS).put("eval_steps", 0).put("save_steps", 0).put("logging_steps", 1);
    return keys;
  }

  /** The beginning of the examples as plain text, which fills sequences of any length. */
  private static Path text(Path source, Path directory) {
    Path target = directory.resolve("text.txt");
    try (InputStream in = Files.newInputStream(source)) {
      byte[] bytes = in.readNBytes(TEXT_BYTES);
      int end = bytes.length;
      while (end > 0 && end == TEXT_BYTES && bytes[end - 1] != '\n') {
        end--; // a line, so that no character is cut
      }
      AtomicOutput.write(target, Arrays.copyOf(bytes, end));
      return target;
    } catch (IOException e) {
      throw new InputException("cannot read " + source + ": " + e, e);
    }
  }

  /** A child's main method. */
  public static void main(String[] arguments) {
    ChildTask.child(
        arguments,
        (task, request, progress) ->
            switch (task) {
              case MAKE -> make(request, progress);
              case MEASURE -> measure(request, progress);
              default -> throw new IllegalArgumentException(task);
            });
  }

  private static ObjectNode make(ObjectNode request, Progress progress) {
    Path config = Path.of(request.path("config").asText());
    new RandomCheckpoint(
            ModelConfig.readFile(config), StoredType.valueOf(request.path("stored_as").asText()), 0)
        .write(
            config,
            Path.of(request.path("tokenizer").asText()),
            Path.of(request.path("target").asText()),
            SHARD_BYTES,
            Runtime.getRuntime().availableProcessors(),
            progress);
    return Json.newObject().put("done", true);
  }

  private static ObjectNode measure(ObjectNode request, Progress progress) throws IOException {
    TrainConfig config =
        TrainConfigReader.parse(
            StudyYaml.write(request.path("training")), request.path("where").asText(), List.of());
    TrainingSummary summary = TrainingRun.run(config, false, progress);
    // A result of random weights, as large as the model for method full.
    AtomicOutput.deleteTree(config.outputDir());
    return Json.newObject()
        .put("peak_bytes", summary.peakBytes())
        .put("planned_bytes", summary.plan().total())
        .put("sequence", summary.plan().sequence())
        .put("seconds_per_step", summary.trainedSeconds() / STEPS);
  }
}
