// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.qlora4j.common.Json;
import org.qlora4j.sentiment.SentimentModel;
import org.qlora4j.tests.support.Browser;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.ReportPage;

/** {@code study generation}: figures, report, answers used again, and what a user can get wrong. */
class StudyGenerationTest {
  private static final int PROMPTS = 5;

  private final Path folder;
  private final Path out;

  StudyGenerationTest(@TempDir Path folder) {
    this.folder = folder;
    this.out = folder.resolve("out");
  }

  private Path config(Path model, String more) throws IOException {
    return Files.writeString(
        folder.resolve("study.yaml"),
        """
        study: generation
        output_dir: %s
        prompts: %s
        prompt_count: %d
        sentiment_model: %s
        samples: 2
        generation: {max_new_tokens: 24}
        training:
          model: %s
          train_file: %s
          eval_file: %s
          sequence_length: 128
          per_device_train_batch_size: 8
          learning_rate: 2e-3
          lora_r: 8
          max_steps: 3
        %s"""
            .formatted(
                out,
                FixtureFiles.project("examples/data/blog-reviews-heldout.jsonl"),
                PROMPTS,
                FixtureFiles.project("examples/sentiment/korean-reviews.model"),
                model,
                FixtureFiles.project("examples/data/blog-reviews.jsonl"),
                FixtureFiles.project("examples/data/blog-reviews-heldout.jsonl"),
                more));
  }

  private Path config() throws IOException {
    return config(FixtureFiles.project("examples/model"), "");
  }

  private static ObjectNode json(Path file) {
    return Json.readObject(file, 1 << 24);
  }

  private static JsonNode row(JsonNode rows, String name) {
    for (JsonNode row : rows) {
      if (row.get(0).asText().equals(name)) {
        return row;
      }
    }
    throw new AssertionError("no row " + name + " in " + rows);
  }

  private List<String> texts(String model) {
    JsonNode texts = json(out.resolve(model).resolve("generate.json")).path("texts");
    return IntStream.range(0, texts.size())
        .mapToObj(i -> texts.get(i).path("text").asText())
        .toList();
  }

  @Test
  void comparesReportsAndReuses() throws Exception {
    Path collection = folder.resolve("posts.jsonl");
    // Positive posts of different words, and one that nobody would call so.
    Files.writeString(
        collection,
        Stream.of(
                "오늘 다녀온 카페는 정말 좋았어요. 커피도 맛있고 직원분들도 친절해서 행복한 하루였답니다. 또 가고 싶어요.",
                "새로 산 이불이 포근하고 따뜻해서 마음에 쏙 들어요. 가족 모두가 좋아해서 선물한 보람이 있네요. 강력 추천합니다.",
                "최악의 식당이었어요. 음식은 차갑고 직원은 불친절해서 정말 실망했습니다. 다시는 가지 않을 거예요. 돈이 아깝네요.")
            .map(text -> Json.compact(Json.newObject().put("title", "글").put("body", text)))
            .collect(Collectors.joining("\n")));
    Path refine =
        Files.writeString(
            folder.resolve("refine.yaml"),
            """
            input: %s
            text_field: body
            title_field: title
            output: %s
            min_words: 5
            sentiment_model: none
            """
                .formatted(collection, folder.resolve("unused.jsonl")));
    Path config =
        config(
            FixtureFiles.project("examples/model"),
            """
            refine: %s
            memory_shape:
              name: Polyglot-Ko 12.8B
              config: %s
              training: {lora_r: 8}
            """
                .formatted(refine, FixtureFiles.project("examples/shapes/polyglot-ko-12.8b.json")));
    String printed = assertDone(run("study", "generation", config)).out();
    assertTrue(printed.contains("report " + out.resolve("report.html")), printed);

    List<String> base = texts("base");
    List<String> tuned = texts("tuned");
    assertEquals(PROMPTS, base.size());
    assertEquals(PROMPTS, tuned.size());
    assertNotEquals(base, tuned, "three steps change something");

    ObjectNode report = json(out.resolve("report.json"));
    JsonNode figures = ReportPage.rows(report, "Base against tuned");
    double words = base.stream().mapToInt(t -> t.split("\\s+", -1).length).average().orElseThrow();
    assertEquals(words, row(figures, "words").get(1).asDouble(), 1e-9);
    SentimentModel sentiment =
        SentimentModel.read(FixtureFiles.project("examples/sentiment/korean-reviews.model"));
    double positive =
        tuned.stream()
            .mapToDouble(t -> t.isBlank() || sentiment.positive(t) < 0.5 ? 0 : 1)
            .average()
            .orElseThrow();
    assertEquals(positive, row(figures, "share of positive texts").get(2).asDouble(), 1e-9);
    double before = json(out.resolve("train.json")).path("loss_before").asDouble();
    assertEquals(
        Math.exp(before), row(figures, "perplexity of held-out examples").get(1).asDouble(), 1e-6);
    JsonNode memory = ReportPage.rows(report, "Memory at the shape of Polyglot-Ko 12.8B");
    assertTrue(memory.get(1).get(2).asDouble() > 58.8, memory.toString());
    JsonNode posts = ReportPage.rows(report, "What became of the collected posts");
    assertEquals(3, row(posts, "collected").get(1).asInt());
    assertEquals(2, row(posts, "kept").get(1).asInt(), posts.toString());

    // Again: nothing runs. Other texts: the model is not trained again.
    for (String file : List.of("train.json", "base/generate.json", "tuned/generate.json")) {
      Files.setLastModifiedTime(out.resolve(file), FileTime.fromMillis(0));
    }
    assertDone(run("study", "generation", config));
    assertEquals(0, Files.getLastModifiedTime(out.resolve("tuned/generate.json")).toMillis());
    assertDone(run("study", "generation", config, "--set", "generation.seed=7"));
    assertEquals(0, Files.getLastModifiedTime(out.resolve("train.json")).toMillis());
    assertNotEquals(tuned, texts("tuned"));

    try (Browser browser = Browser.start()) {
      ReportPage.check(browser, out.resolve("report.html"), 4, 5);
    }
  }

  @Test
  void aModelThatWritesNothingIsOneLine() throws IOException {
    Path model = folder.resolve("silent");
    Files.createDirectories(model);
    try (Stream<Path> files = Files.list(FixtureFiles.project("examples/model"))) {
      for (Path file : files.toList()) {
        Files.copy(file, model.resolve(file.getFileName()));
      }
    }
    // Every token ends a text.
    ObjectNode generation = Json.newObject();
    IntStream.range(0, 4608).forEach(generation.putArray("eos_token_id")::add);
    Files.writeString(model.resolve("generation_config.json"), Json.pretty(generation));
    assertFixable(
        run("study", "generation", config(model, "")), "the base model wrote nothing for any of");
    assertFalse(Files.exists(out.resolve("report.html")));
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "sentiment_treshold: 0.4 | unknown key 'sentiment_treshold'; did you mean sentiment_threshold?",
        "sentiment_threshold: 1.5 | sentiment_threshold: expected a number of 0.0 to 1.0",
        "sentiment_model: none.model | none.model",
        "prompt_count: 1000 | expected 1000 prompts (prompt_count), found",
        "prompts: none.jsonl | none.jsonl",
        "study: methods | study: expected generation, found 'methods'",
        "training.method: lora | method is decided by the study",
        "training.eval_file: null | expected eval_file or val_set_size",
        "training.lora_rnak: 3 | lora_rnak",
        "generation.top_p: 0 | generation: top_p: expected a number of",
        "generation.topk: 5 | unknown key 'topk'; did you mean top_k?",
        "memory_shape: {name: A, config: none.json} | none.json",
        "refine: none.yaml | none.yaml",
      })
  void oneLineForWhatAUserCanMend(String setting, String part) throws IOException {
    String[] keyAndValue = setting.split(": ", 2);
    assertFixable(
        run("study", "generation", config(), "--set", keyAndValue[0] + "=" + keyAndValue[1]), part);
    assertFalse(Files.exists(out.resolve("report.html")), "nothing was written");
  }

  @Test
  void promptsOfTheTrainingAreRefused() throws IOException {
    assertFixable(
        run(
            "study",
            "generation",
            config(),
            "--set",
            "prompts=" + FixtureFiles.project("examples/data/blog-reviews.jsonl")),
        "is among the training examples too");
  }
}
