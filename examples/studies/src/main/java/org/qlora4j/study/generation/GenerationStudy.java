// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.study.generation;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.TextNode;
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
import org.qlora4j.data.Example;
import org.qlora4j.data.ExampleReader;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.refine.RefineConfig;
import org.qlora4j.refine.RefineConfigReader;
import org.qlora4j.refine.RefineReport;
import org.qlora4j.refine.Refinement;
import org.qlora4j.report.Report;
import org.qlora4j.sentiment.SentimentModel;
import org.qlora4j.study.ChildTask;
import org.qlora4j.study.Machine;
import org.qlora4j.study.ModelContent;
import org.qlora4j.study.ShapeMeasurement;
import org.qlora4j.study.StudyReport;
import org.qlora4j.study.WorkProgress;
import org.qlora4j.study.generation.TextMeasures.CopyFinder;
import org.qlora4j.train.TrainConfig;

/**
 * Tunes a model by QLoRA on refined reviews, lets the base and the tuned model write to prompts
 * that training never saw, and measures both.
 *
 * <p>Training and writing have processes of their own, whose answers are files. A study that was
 * interrupted takes the answers to the same questions, and a training goes on from its newest
 * checkpoint.
 */
public final class GenerationStudy {
  /** A word that no text has, so that no run goes from one text to the next. */
  private static final String BETWEEN = " \u0000 ";

  private final GenerationStudyConfig config;
  private final Progress progress;
  private final Progress work;
  private final String model;
  private final String pack;

  private GenerationStudy(GenerationStudyConfig config, Progress progress) {
    this.config = config;
    this.progress = progress;
    this.work = new WorkProgress(progress, "");
    TrainConfig training = config.trainConfig(List.of());
    this.model = ModelContent.of(training.model());
    this.pack = Machine.packName(training.device());
  }

  /**
   * Runs a study to its end.
   *
   * @param file its configuration; docs/study-generation.md has the keys
   * @param settings {@code key=value} in place of the file's
   * @return the report's HTML file; JSON and Markdown lie beside it
   * @throws InputException for whatever the user can fix
   */
  public static Path run(Path file, List<String> settings, Progress progress) {
    return new GenerationStudy(GenerationStudyConfig.read(file, settings), progress).run();
  }

  private Path run() {
    // Whatever is wrong must show before the training.
    SentimentModel sentiment = SentimentModel.read(config.sentimentModel());
    List<String> prompts = prompts();
    RefineReport refined = null;
    List<Path> more = new ArrayList<>();
    if (config.refine() != null) {
      Path target = config.outputDir().resolve("refined.jsonl");
      refined = refine(config.refine(), target);
      more.add(target);
    }
    TrainConfig training = config.trainConfig(more);
    Map<String, String> completions = completions(training);
    for (String prompt : prompts) {
      if (completions.containsKey(prompt)) {
        throw new InputException(
            config.prompts()
                + ": the prompt "
                + Text.quote(prompt)
                + " is among the training examples too; choose prompts that training never sees");
      }
    }
    CopyFinder finder = new CopyFinder(List.copyOf(completions.values()));

    ObjectNode trained = train(more, training);
    Path adapter = Path.of(trained.path("adapter").asText());
    WrittenTexts base =
        written("base", prompts, null, trained.path("loss_before").asDouble(), sentiment, finder);
    WrittenTexts tuned =
        written(
            "tuned", prompts, adapter, trained.path("loss_after").asDouble(), sentiment, finder);
    for (WrittenTexts each : List.of(base, tuned)) {
      if (each.texts().stream().allMatch(t -> t.text().isBlank())) {
        throw new InputException(
            "the "
                + each.name()
                + " model wrote nothing for any of the "
                + prompts.size()
                + " prompts; see whether they end as the training's prompts do, or train longer");
      }
    }
    Report report =
        new GenerationReport(
                config,
                training,
                prompts,
                base,
                tuned,
                trained,
                refined,
                memory(),
                measured(training))
            .make();
    return StudyReport.write(report, config.outputDir());
  }

  private List<String> prompts() {
    List<String> prompts = new ArrayList<>();
    for (Example example : new ExampleReader("alpaca").read(config.prompts())) {
      if (!(example instanceof Example.Completion completion)) {
        throw new InputException(
            config.prompts() + ": expected rows with prompt and completion, found another kind");
      }
      if (prompts.size() < config.promptCount()) {
        prompts.add(completion.prompt());
      }
    }
    if (prompts.size() < config.promptCount()) {
      throw new InputException(
          config.prompts()
              + ": expected "
              + config.promptCount()
              + " prompts (prompt_count), found "
              + prompts.size());
    }
    return prompts;
  }

  /**
   * Collected posts to positive examples, all of them for training: the prompts come from
   * elsewhere.
   */
  private RefineReport refine(Path file, Path target) {
    RefineConfig refinement =
        RefineConfigReader.read(
            file,
            List.of(
                "output=" + quoted(target),
                "held_out=",
                "sentiment_model=" + quoted(config.sentimentModel()),
                "min_positive=" + config.threshold()));
    RefineReport report = Refinement.run(refinement, progress);
    progress.message(
        String.format(
            Locale.ROOT, "refined: %,d of %,d posts are examples", report.kept(), report.rows()));
    return report;
  }

  /** A path as YAML, whatever characters it has. */
  private static String quoted(Path path) {
    return Json.compact(TextNode.valueOf(path.toString()));
  }

  /** Texts of the training examples by prompt, to see what was copied. */
  private static Map<String, String> completions(TrainConfig training) {
    Map<String, String> completions = new LinkedHashMap<>();
    for (Path file : training.data().trainFiles()) {
      for (Example example : new ExampleReader("alpaca").read(file)) {
        // Two examples of one prompt are both looked at.
        completions.merge(prompt(example), text(example), (a, b) -> a + BETWEEN + b);
      }
    }
    return completions;
  }

  /** What a prompt of the study must not be. */
  private static String prompt(Example example) {
    return example instanceof Example.Completion completion ? completion.prompt() : "";
  }

  /** What a model learns to write. */
  private static String text(Example example) {
    if (example instanceof Example.Completion completion) {
      return completion.completion();
    }
    if (example instanceof Example.Text text) {
      return text.text();
    }
    StringBuilder messages = new StringBuilder();
    for (Example.Message message : ((Example.Chat) example).messages()) {
      messages.append(message.content()).append(BETWEEN);
    }
    return messages.toString();
  }

  // ---------------------------------------------------------------- processes

  private ObjectNode request(List<Path> more) {
    ObjectNode request = Json.newObject().put("where", config.where()).put("pack", pack);
    request.put("model", model);
    request.set("training", config.trainingKeys(more));
    return request;
  }

  private ObjectNode train(List<Path> more, TrainConfig training) {
    ObjectNode request = request(more);
    // The files by content, so that a result of others is not taken for an answer.
    ArrayNode contents = request.putArray("contents");
    training.data().trainFiles().forEach(file -> contents.add(Sha256.of(file)));
    if (training.data().evalFile() != null) {
      contents.add(Sha256.of(training.data().evalFile()));
    }
    request.put("directory", config.outputDir().resolve("training").toString());
    ObjectNode trained =
        ChildTask.answered(
            GenerationProcess.class,
            GenerationProcess.TRAIN,
            request,
            config.outputDir(),
            work,
            "training");
    progress.message(
        String.format(
            Locale.ROOT,
            "trained %d steps in %.0f s: held-out loss %.4f to %.4f",
            trained.path("steps").asInt(),
            trained.path("seconds").asDouble(),
            trained.path("loss_before").asDouble(),
            trained.path("loss_after").asDouble()));
    return trained;
  }

  private WrittenTexts written(
      String name,
      List<String> prompts,
      @Nullable Path adapter,
      double loss,
      SentimentModel sentiment,
      CopyFinder finder) {
    ObjectNode request = request(List.of());
    request.set("generation", config.generation());
    ArrayNode array = request.putArray("prompts");
    prompts.forEach(array::add);
    if (adapter != null) {
      request.put("adapter", adapter.toString());
      request.put("content", Sha256.of(adapter.resolve("adapter_model.safetensors")));
    }
    JsonNode answer =
        ChildTask.answered(
            GenerationProcess.class,
            GenerationProcess.GENERATE,
            request,
            config.outputDir().resolve(name),
            work,
            name + " model");
    List<GeneratedText> texts = new ArrayList<>();
    answer.path("texts").forEach(text -> texts.add(GeneratedText.of(text)));
    return WrittenTexts.measure(
        name, texts, sentiment, finder, Math.exp(loss), answer.path("others_cpus").asDouble());
  }

  /** Parts of LoRA's and QLoRA's memory at the larger shape, planned; null without one. */
  private @Nullable ObjectNode memory() {
    GenerationStudyConfig.Shape shape = config.shape();
    if (shape == null) {
      return null;
    }
    ObjectNode request = Json.newObject().put("where", config.where()).put("pack", pack);
    request.set("training", config.shapeKeys(shape));
    request.put("config", shape.config().toString());
    request.put("shape", ModelConfig.readFile(shape.config()).toString());
    request.put("sequence", shape.sequence()).put("batch", shape.batch());
    return ChildTask.answered(
        GenerationProcess.class,
        GenerationProcess.PLAN,
        request,
        config.outputDir().resolve("shape"),
        work,
        "memory plan");
  }

  /** What LoRA and QLoRA really took at the larger shape, of those that are to be measured. */
  private Map<String, ShapeMeasurement.Used> measured(TrainConfig training) {
    Map<String, ShapeMeasurement.Used> measured = new LinkedHashMap<>();
    GenerationStudyConfig.Shape shape = config.shape();
    if (shape == null) {
      return measured;
    }
    for (String method : shape.measure()) {
      ObjectNode keys = config.shapeKeys(shape).put("method", method);
      measured.put(
          method,
          ShapeMeasurement.measure(
              method,
              new ShapeMeasurement.Shape(
                  shape.config(),
                  null,
                  training.model(),
                  training.data().trainFiles().get(0),
                  shape.sequence(),
                  shape.batch()),
              keys,
              pack,
              config.outputDir().resolve("shape"),
              work));
    }
    return measured;
  }
}
