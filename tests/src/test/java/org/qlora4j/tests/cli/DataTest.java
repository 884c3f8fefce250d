// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.Json;
import org.qlora4j.data.Example;
import org.qlora4j.data.ExampleReader;
import org.qlora4j.refine.CleaningStep;
import org.qlora4j.refine.DropReason;
import org.qlora4j.refine.RefineConfigReader;
import org.qlora4j.sentiment.SentimentModel;
import org.qlora4j.tests.support.CommandRuns.Ran;
import org.qlora4j.tests.support.FixtureFiles;

final class DataTest {
  private final Path dir;

  DataTest(@TempDir Path dir) {
    this.dir = dir;
  }

  /** The example as its page says it is run, with paths for another working directory. */
  private Ran refineExample(String... more) {
    List<Object> args =
        new ArrayList<>(List.of("data", "refine", FixtureFiles.project("examples/refine.yaml")));
    for (String setting :
        List.of(
            "input=" + FixtureFiles.project("examples/data/collected-posts.jsonl"),
            "sentiment_model=" + FixtureFiles.project("examples/sentiment/korean-reviews.model"),
            "output=" + dir.resolve("posts.jsonl"),
            "held_out=" + dir.resolve("held.jsonl"))) {
      args.add("--set");
      args.add(setting);
    }
    args.addAll(List.of(more));
    return run(args.toArray());
  }

  @Test
  void theExampleShowsEveryReason() throws IOException {
    Ran ran = assertDone(refineExample());
    assertTrue(ran.out().contains("rows read"), ran.out());
    JsonNode report = Json.readObject(dir.resolve("posts.report.json"), 1 << 22);
    List<DropReason> notHere =
        List.of(
            DropReason.ROW_TOO_LONG,
            DropReason.SPONSORED,
            DropReason.TOO_LONG,
            DropReason.NO_PROMPT);
    for (DropReason reason : DropReason.values()) {
      boolean shown = report.path("dropped").path(reason.key()).asInt() > 0;
      assertEquals(
          !notHere.contains(reason), shown, reason.key() + " in " + report.path("dropped"));
      assertEquals(shown, !report.path("samples").path(reason.key()).isEmpty(), reason.key());
    }
    for (CleaningStep step : CleaningStep.values()) {
      assertTrue(report.path("cleaning").path(step.key()).path("posts").asInt() > 0, step.key());
    }
    int kept = report.path("kept_training").asInt() + report.path("kept_held_out").asInt();
    assertTrue(kept >= 60, "kept " + kept);
    List<Example> examples = new ExampleReader("alpaca").read(dir.resolve("posts.jsonl"));
    assertEquals(report.path("kept_training").asInt(), examples.size());
    String all =
        Files.readString(dir.resolve("posts.jsonl")) + Files.readString(dir.resolve("held.jsonl"));
    for (String gone :
        List.of("010-1234", "example.com", "원고료", "http", "<p>", "&nbsp;", "😍", "최악")) {
      assertFalse(all.contains(gone), gone);
    }
    assertTrue(all.contains("협찬 아니고 제 돈 주고"), "an innocent sentence was taken for a disclosure");
    assertTrue(Files.readString(dir.resolve("posts.report.md")).contains("## Dropped"));
  }

  @Test
  void theOtherReasonsAreASettingAway() throws IOException {
    assertDone(
        refineExample(
            "--set",
            "disclosures=drop_post",
            "--set",
            "too_long=drop",
            "--set",
            "max_words=60",
            "--set",
            "max_row_bytes=1024",
            "--set",
            "max_bad_rows=0.5"));
    JsonNode dropped = Json.readObject(dir.resolve("posts.report.json"), 1 << 22).path("dropped");
    for (DropReason reason :
        List.of(DropReason.ROW_TOO_LONG, DropReason.SPONSORED, DropReason.TOO_LONG)) {
      assertTrue(dropped.path(reason.key()).asInt() > 0, reason.key());
    }
  }

  @Test
  void helpListsWhatThereIs() {
    Ran help = assertDone(run("data", "--help"));
    assertTrue(help.out().contains("refine") && help.out().contains("train-sentiment"), help.out());
    Ran keys = assertDone(run("data", "refine", "--help-keys"));
    for (RefineConfigReader.Key key : RefineConfigReader.KEYS) {
      assertTrue(keys.out().contains(key.name()), key.name());
    }
    assertDone(run("data", "train-sentiment", "--help"));
  }

  @Test
  void everyKeyIsDocumented() throws IOException {
    String page = Files.readString(FixtureFiles.project("docs/data.md"));
    for (RefineConfigReader.Key key : RefineConfigReader.KEYS) {
      assertTrue(page.contains("| `" + key.name() + "` |"), key.name());
    }
    for (DropReason reason : DropReason.values()) {
      assertTrue(page.contains("`" + reason.key() + "`"), reason.key());
    }
    for (CleaningStep step : CleaningStep.values()) {
      assertTrue(page.contains("`" + step.key() + "`"), step.key());
    }
  }

  @Test
  void mistakesAreOneLine() throws IOException {
    assertFixable(run("data"), "refine or train-sentiment");
    assertFixable(run("data", "refine"), "expected a configuration");
    assertFixable(run("data", "refine", dir.resolve("none.yaml")), "no such file");
    assertFixable(refineExample("--set", "min_positve=0.5"), "did you mean min_positive?");
    assertFixable(
        refineExample("--set", "min_positive=1"), "no training example is left", "not_positive");
    assertFixable(
        refineExample("--set", "max_bad_rows=0.01"), "rows cannot be read", "max_bad_rows");
    assertFixable(
        refineExample("--set", "sentiment_model=" + FixtureFiles.project("README.md")),
        "another kind of file");
    Path empty = Files.writeString(dir.resolve("empty.tsv"), "");
    Path oneClass =
        Files.writeString(dir.resolve("one.tsv"), "id\tdocument\tlabel\n1\t좋아요\t1\n2\t최고\t1\n");
    Path wrong =
        Files.writeString(
            dir.resolve("wrong.tsv"), "id\tdocument\tlabel\n1\t좋아요\tfive stars\n2\t별로\t0\n");
    Path few =
        Files.writeString(dir.resolve("few.tsv"), "id\tdocument\tlabel\n1\t좋아요\t1\n2\t별로\t0\n");
    Path model = dir.resolve("m.model");
    assertFixable(
        run("data", "train-sentiment", empty, model), "empty.tsv", "names of the columns");
    assertFixable(
        run("data", "train-sentiment", oneClass, model),
        "expected positive and negative reviews, found positive ones only");
    assertFixable(
        run("data", "train-sentiment", wrong, model), "1 of 2 rows", "found 'five stars'");
    assertFixable(run("data", "train-sentiment", few, model), "give more reviews");
    assertFixable(
        run("data", "train-sentiment", few, model, "--text-field", "text"),
        "expected a column 'text'");
    assertFixable(run("data", "train-sentiment", few, model, "--epochs", "0"), "--epochs");
    assertFixable(run("data", "train-sentiment", dir.resolve("x.tsv"), model), "no such file");
    assertFalse(Files.exists(model));
  }

  @Test
  void trainsOnAFileOfOnesOwn() throws IOException {
    Random random = new Random(4);
    String[] good = {"맛있어요", "친절해요", "깨끗해요", "추천해요", "행복해요"};
    String[] bad = {"맛없어요", "불친절해요", "더러워요", "실망해요", "짜증나요"};
    List<String> rows = new ArrayList<>();
    for (int i = 0; i < 600; i++) {
      boolean positive = i % 2 == 0;
      String[] words = positive ? good : bad;
      ObjectNode row = Json.newObject();
      row.put(
          "review",
          "이번 가게 " + i + " " + words[random.nextInt(5)] + " 그리고 " + words[random.nextInt(5)]);
      row.put("sentiment", positive ? "긍정" : "부정");
      rows.add(Json.compact(row));
    }
    Path reviews = Files.write(dir.resolve("reviews.jsonl"), rows);
    Path model = dir.resolve("own.model");
    Path json = dir.resolve("own.json");
    Ran ran =
        assertDone(
            run(
                "data",
                "train-sentiment",
                reviews,
                model,
                "--text-field",
                "review",
                "--label-field",
                "sentiment",
                "--json",
                json));
    assertTrue(
        ran.out().contains("found positive") && ran.out().contains("calibration error"), ran.out());
    JsonNode figures = Json.readObject(json, 1 << 20);
    assertTrue(figures.path("accuracy").asDouble() > 0.95, ran.out());
    int confusion = 0;
    for (String cell :
        List.of("true_positives", "false_negatives", "true_negatives", "false_positives")) {
      confusion += figures.path(cell).asInt();
    }
    assertEquals(figures.path("held_out_reviews").asInt(), confusion);
    assertEquals(10, figures.path("reliability").size());
    SentimentModel own = SentimentModel.read(model);
    assertTrue(own.positive("맛있어요 친절해요") > 0.5 && own.positive("더러워요 짜증나요") < 0.5);
    // The same reviews give the same bytes.
    Path again = dir.resolve("again.model");
    assertDone(
        run(
            "data",
            "train-sentiment",
            reviews,
            again,
            "--text-field",
            "review",
            "--label-field",
            "sentiment"));
    assertEquals(-1, Files.mismatch(model, again));
  }
}
