// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.methods;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Sha256;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DType;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.report.Report;
import org.qlora4j.study.ChildTask;
import org.qlora4j.study.Machine;
import org.qlora4j.study.ModelContent;
import org.qlora4j.study.ShapeMeasurement;
import org.qlora4j.study.StudyReport;
import org.qlora4j.study.WorkProgress;
import org.qlora4j.study.methods.MethodProcess.Task;
import org.qlora4j.train.TrainConfig;

/**
 * Compares ways to tune a model: the same base, examples, seed and evaluation for every method,
 * each in a process of its own.
 *
 * <p>What a method's process gave is a file, beside the one that says what it was asked. A study
 * that was interrupted takes the results that answer the same question, goes on with the method it
 * was in from its newest checkpoint, and runs the rest.
 */
public final class MethodStudy {
  private final MethodStudyConfig config;
  private final Progress progress;
  private final String pack;
  private final Map<String, String> contents = new LinkedHashMap<>();

  private MethodStudy(MethodStudyConfig config, Progress progress) {
    this.config = config;
    this.progress = progress;
    this.pack = Machine.packName(config.trainConfig(config.methods().get(0), null).device());
  }

  /**
   * Runs a study to its end.
   *
   * @param file its configuration; docs/study-methods.md has the keys
   * @param settings {@code key=value} in place of the file's
   * @return the report's HTML file; JSON and Markdown lie beside it
   * @throws InputException for whatever the user can fix
   */
  public static Path run(Path file, List<String> settings, Progress progress) {
    MethodStudyConfig config = MethodStudyConfig.read(file, settings);
    return new MethodStudy(config, progress).run();
  }

  private Path run() {
    for (MethodSpec method : config.methods()) {
      // A missing file must not show only after an hour.
      content(method);
    }
    List<MethodResult> results = new ArrayList<>();
    Map<String, Map<Double, Double>> tries = new LinkedHashMap<>();
    for (int i = 0; i < config.methods().size(); i++) {
      MethodSpec method = config.methods().get(i);
      Progress own =
          new WorkProgress(
              progress, (i + 1) + "/" + config.methods().size() + " " + method.name() + ": ");
      convert(method, own);
      Double rate = null;
      if (!config.rates().isEmpty()) {
        Map<Double, Double> losses = search(method, own);
        tries.put(method.name(), losses);
        rate = losses.entrySet().stream().min(Map.Entry.comparingByValue()).orElseThrow().getKey();
      }
      MethodResult result = train(method, rate, own);
      progress.message(
          String.format(
              Locale.ROOT,
              "%s: held-out loss %.4f after %d steps, %.4f after %d; %.0f ms a step; peak %s",
              method.name(),
              result.loss(config.steps()),
              config.steps(),
              result.loss(config.moreSteps()),
              config.moreSteps(),
              1e3 * result.stepSeconds(),
              Text.bytes(result.peakBytes())));
      results.add(result);
    }
    MethodStudyConfig.Shape shape = config.shape();
    ShapeMemory memory = shape == null ? null : memory(shape);
    Report report = new MethodReport(config, results, tries, memory).make();
    return StudyReport.write(report, config.outputDir());
  }

  // ---------------------------------------------------------------- one method

  private void convert(MethodSpec method, Progress own) {
    DType type = method.storedAs();
    if (type == null) {
      return;
    }
    Path source = MethodStudyConfig.original(method);
    Path target = config.model(method);
    ObjectNode request = Json.newObject().put("model", source.toString());
    request.put("stored_as", type.name()).put("target", target.toString());
    request.put("content", fingerprint(source));
    answered(Task.CONVERT, request, target.resolveSibling(target.getFileName() + "-made"), own);
  }

  private Map<Double, Double> search(MethodSpec method, Progress own) {
    Path directory = config.directory(method);
    ObjectNode request = request(method).put("steps", config.searchSteps());
    request.put("directory", directory.resolve("search").toString());
    ArrayNode rates = request.putArray("rates");
    config.rates().forEach(rates::add);
    Map<Double, Double> losses = new LinkedHashMap<>();
    for (JsonNode one : answered(Task.SEARCH, request, directory, own).path("tries")) {
      // None for a rate at which the training diverged.
      losses.put(
          one.path("learning_rate").asDouble(),
          one.path("loss").asDouble(Double.POSITIVE_INFINITY));
    }
    if (losses.values().stream().allMatch(loss -> loss.isInfinite())) {
      throw new InputException(
          method.name() + ": the training diverged at every one of learning_rates; add lower ones");
    }
    return losses;
  }

  private MethodResult train(MethodSpec method, @Nullable Double rate, Progress own) {
    Path directory = config.directory(method);
    ObjectNode request = request(method).put("steps", config.moreSteps());
    request.put("eval_every", config.evalEvery()).put("learning_rate", rate == null ? 0 : rate);
    request.put("directory", directory.resolve("run").toString());
    return MethodResult.of(answered(Task.TRAIN, request, directory, own));
  }

  private ObjectNode request(MethodSpec method) {
    ObjectNode request = Json.newObject().put("model", config.model(method).toString());
    request.put("content", content(method)).put("pack", pack);
    request.set("method", method.toJson());
    return request;
  }

  private static ObjectNode answered(
      Task task, ObjectNode request, Path directory, Progress progress) {
    String file = task.name().toLowerCase(Locale.ROOT);
    String name = request.path("method").path("name").asText(file);
    return ChildTask.answered(MethodProcess.class, file, request, directory, progress, name);
  }

  // ---------------------------------------------------------------- what results depend on

  /** Base and examples by content, so that a result of others is not taken for an answer. */
  private String content(MethodSpec method) {
    TrainConfig.Data data = config.trainConfig(method, null).data();
    StringBuilder content = new StringBuilder(fingerprint(MethodStudyConfig.original(method)));
    List<Path> files = new ArrayList<>(data.trainFiles());
    if (data.evalFile() != null) {
      files.add(data.evalFile());
    }
    for (Path file : files) {
      content.append(' ').append(contents.computeIfAbsent(file.toString(), f -> Sha256.of(file)));
    }
    return content.toString();
  }

  private String fingerprint(Path model) {
    return contents.computeIfAbsent(model + "/", m -> ModelContent.of(model));
  }

  // ---------------------------------------------------------------- memory at a shape

  private ShapeMemory memory(MethodStudyConfig.Shape shape) {
    Path directory = config.outputDir().resolve("shape");
    ModelConfig model = ModelConfig.readFile(shape.config());
    ObjectNode request = Json.newObject().put("config", shape.config().toString());
    request.put("shape", model.toString()).put("pack", pack);
    request.put("sequence", shape.sequence()).put("batch", shape.batch());
    ArrayNode methods = request.putArray("methods");
    config.methods().forEach(m -> methods.add(m.toJson()));
    Progress own = new WorkProgress(progress, shape.name() + ": ");
    own.start("planning memory", 0);
    ObjectNode plans = answered(Task.PLAN, request, directory, own);
    Map<String, ShapeMemory.Planned> planned = new LinkedHashMap<>();
    plans
        .path("plans")
        .properties()
        .forEach(
            plan -> {
              Map<String, Long> parts = new LinkedHashMap<>();
              plan.getValue()
                  .properties()
                  .forEach(part -> parts.put(part.getKey(), part.getValue().asLong()));
              planned.put(plan.getKey(), new ShapeMemory.Planned(parts));
            });
    own.finish();
    Map<String, ShapeMeasurement.Used> measured = new LinkedHashMap<>();
    for (MethodSpec method : config.methods()) {
      if (shape.measure().contains(method.name())) {
        measured.put(method.name(), measure(shape, method, directory));
      }
    }
    return new ShapeMemory(shape, planned, measured);
  }

  private ShapeMeasurement.Used measure(
      MethodStudyConfig.Shape shape, MethodSpec method, Path directory) {
    Progress own = new WorkProgress(progress, shape.name() + ", " + method.name() + ": ");
    return ShapeMeasurement.measure(
        method.name(),
        new ShapeMeasurement.Shape(
            shape.config(),
            method.storedAs(),
            MethodStudyConfig.original(method),
            config.trainConfig(method, null).data().trainFiles().get(0),
            shape.sequence(),
            shape.batch()),
        method.training(),
        pack,
        directory,
        own);
  }
}
