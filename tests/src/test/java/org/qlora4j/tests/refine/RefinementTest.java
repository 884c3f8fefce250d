// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.refine;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.data.Example;
import org.qlora4j.data.ExampleReader;
import org.qlora4j.refine.DropReason;
import org.qlora4j.refine.RefineConfigReader;
import org.qlora4j.refine.RefineReport;
import org.qlora4j.refine.Refinement;

final class RefinementTest {
  private static final String[] WORDS =
      "골목 카페 창가 햇살 커피 향기 친구 주말 바람 나무 조용히 책을 읽으며 쉬었어요 정말 따뜻한 하루였어요 가족과 함께 맛있는 저녁을 먹고 돌아왔어요 다음에 또 오고 싶어요 깨끗한 방과 친절한 주인 덕분에 편안했어요"
          .split(" ");

  private final Path dir;

  RefinementTest(@TempDir Path dir) {
    this.dir = dir;
  }

  private RefineReport refine(Path input, String... settings) throws IOException {
    Path config =
        Files.writeString(
            dir.resolve("refine.yaml"),
            "input: '"
                + input
                + "'\noutput: '"
                + dir.resolve("out.jsonl")
                + "'\ntitle_field: title\n");
    return Refinement.run(RefineConfigReader.read(config, List.of(settings)), Progress.none());
  }

  private static String row(String title, String text) {
    ObjectNode row = Json.newObject();
    row.put("title", title);
    row.put("text", text);
    return Json.compact(row);
  }

  private static String text(Random random, int words) {
    List<String> text = new ArrayList<>();
    for (int i = 0; i < words; i++) {
      // A number in each makes texts differ from each other and words from each other.
      text.add(
          WORDS[random.nextInt(WORDS.length)]
              + (random.nextInt(3) == 0 ? (char) ('가' + random.nextInt(900)) : ""));
    }
    return String.join(" ", text) + ".";
  }

  /** Rows of every kind. */
  private static List<String> mixedRows(Random random, int count) {
    List<String> rows = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      String text = text(random, 12 + random.nextInt(30));
      switch (random.nextInt(12)) {
        case 0 -> rows.add("{\"title\": \"끊긴");
        case 1 -> rows.add("{\"title\": \"본문 없음\"}");
        case 2 -> rows.add(row("짧은 글", "좋아요 또 가요"));
        case 3 ->
            rows.add(
                row(
                    "English",
                    "This is a text in another language that is long enough to be kept."));
        case 4 -> rows.add(rows.isEmpty() ? row("첫", text) : rows.get(random.nextInt(rows.size())));
        case 5 -> rows.add(row("비슷한 글", text.replace("정말", "아주")));
        case 6 -> rows.add(row("협찬 글", text + " 업체로부터 제공받아 작성한 글입니다."));
        case 7 -> rows.add(row("빈 글", "<p></p>"));
        case 8 -> rows.add(row("되풀이", "최고 ".repeat(20)));
        default -> rows.add(row("글 " + i, text));
      }
    }
    return rows;
  }

  @Test
  void everyRowIsAccountedFor() throws IOException {
    for (int seed = 1; seed <= 20; seed++) {
      Random random = new Random(seed);
      List<String> rows = mixedRows(random, 30 + random.nextInt(200));
      Path input = Files.write(dir.resolve("in.jsonl"), rows);
      RefineReport report =
          refine(
              input,
              "max_bad_rows=1",
              "held_out=" + dir.resolve("held.jsonl"),
              "held_out_fraction=0.3");
      long drops = report.drops().values().stream().mapToLong(Long::longValue).sum();
      assertEquals(rows.size(), report.rows(), "seed " + seed);
      assertEquals(report.rows(), report.kept() + drops, "seed " + seed);
      assertEquals(report.training(), Files.readAllLines(dir.resolve("out.jsonl")).size());
      assertEquals(report.heldOut(), Files.readAllLines(dir.resolve("held.jsonl")).size());
      JsonNode written = Json.readObject(dir.resolve("out.report.json"), 1 << 20);
      assertEquals(report.rows(), written.path("rows").asLong());
      long writtenDrops = 0;
      for (JsonNode count : written.path("dropped")) {
        writtenDrops += count.asLong();
      }
      assertEquals(drops, writtenDrops);
    }
  }

  @Test
  void resultDoesNotDependOnThreads() throws IOException {
    Path input = Files.write(dir.resolve("in.jsonl"), mixedRows(new Random(3), 3000));
    String held = "held_out=" + dir.resolve("held.jsonl");
    RefineReport one = refine(input, "threads=1", "max_bad_rows=1", held);
    byte[] training = Files.readAllBytes(dir.resolve("out.jsonl"));
    byte[] heldOut = Files.readAllBytes(dir.resolve("held.jsonl"));
    for (int threads : new int[] {2, 3, 8}) {
      RefineReport more = refine(input, "threads=" + threads, "max_bad_rows=1", held);
      assertArrayEquals(training, Files.readAllBytes(dir.resolve("out.jsonl")));
      assertArrayEquals(heldOut, Files.readAllBytes(dir.resolve("held.jsonl")));
      assertEquals(one.drops(), more.drops());
      assertEquals(one.samples(), more.samples());
      assertEquals(one.steps(), more.steps());
    }
  }

  @Test
  void examplesAreWhatTheTrainerReads() throws IOException {
    Path input =
        Files.write(
            dir.resolve("in.jsonl"),
            List.of(
                row(
                    "[협찬] 골목 <b>카페</b> 🎉",
                    "<p>창가 자리가 햇살로 가득해서 책 읽기 좋았어요.</p><p>커피 향기도 진하고 친구와 오래 이야기했어요. 전화 010-1234-5678</p>")));
    refine(input);
    List<Example> examples = new ExampleReader("alpaca").read(dir.resolve("out.jsonl"));
    assertEquals(1, examples.size());
    if (!(examples.get(0) instanceof Example.Completion example)) {
      throw new AssertionError("expected a prompt and a completion, found " + examples.get(0));
    }
    assertTrue(example.prompt().startsWith("제목: 골목 카페 / 키워드: "), example.prompt());
    assertTrue(example.prompt().endsWith(" / 후기:"), example.prompt());
    assertEquals(" 창가 자리가 햇살로 가득해서 책 읽기 좋았어요. 커피 향기도 진하고 친구와 오래 이야기했어요.", example.completion());
  }

  @Test
  void firstWordsGoToThePrompt() throws IOException {
    Path input = Files.write(dir.resolve("in.jsonl"), List.of(row("제목", text(new Random(1), 20))));
    refine(input, "prompt='{first_words}'", "first_words=5");
    JsonNode example = Json.object(Files.readString(dir.resolve("out.jsonl")), "out");
    String whole = example.path("prompt").asText() + example.path("completion").asText();
    assertEquals(text(new Random(1), 20), whole);
    assertEquals(5, example.path("prompt").asText().split(" ", -1).length);
  }

  /** Of texts whose first words are in the prompt, too. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void heldOutExamplesShareNoRunOfWordsWithTraining(boolean firstWords) throws IOException {
    Random random = new Random(11);
    List<String> rows = new ArrayList<>();
    List<String> quotes = new ArrayList<>();
    for (int i = 0; i < 400; i++) {
      String text = text(random, 30);
      if (i % 10 == 9) {
        // Quotes ten words of an earlier post.
        text = text + " " + quotes.get(random.nextInt(quotes.size()));
      }
      quotes.add(String.join(" ", Arrays.asList(text.split(" ", -1)).subList(3, 13)));
      rows.add(row("글 " + i, text));
    }
    Path input = Files.write(dir.resolve("in.jsonl"), rows);
    RefineReport report =
        refine(
            input,
            "held_out=" + dir.resolve("held.jsonl"),
            "held_out_fraction=0.3",
            firstWords ? "prompt='{first_words}'" : "seed=42",
            firstWords ? "first_words=6" : "first_words=5",
            "held_out_shared_words=8");
    assertTrue(report.heldOut() > 50 && report.training() > 100, report.toString());
    assertTrue(
        report.drops().getOrDefault(DropReason.SHARED_WITH_HELD_OUT, 0L) > 0, report.toString());
    Set<String> heldOut = runs(dir.resolve("held.jsonl"), firstWords);
    Set<String> training = runs(dir.resolve("out.jsonl"), firstWords);
    training.retainAll(heldOut);
    assertEquals(Set.of(), training);
  }

  private static Set<String> runs(Path file, boolean firstWords) throws IOException {
    Set<String> runs = new HashSet<>();
    for (String line : Files.readAllLines(file)) {
      ObjectNode example = Json.object(line, "x");
      String text =
          (firstWords ? example.path("prompt").asText() : "") + example.path("completion").asText();
      assertEquals(2, example.size(), line);
      List<String> words = Arrays.asList(text.strip().split(" ", -1));
      for (int i = 0; i + 8 <= words.size(); i++) {
        runs.add(String.join(" ", words.subList(i, i + 8)));
      }
    }
    return runs;
  }

  @Test
  void groupsStayTogether() throws IOException {
    Random random = new Random(12);
    List<String> rows = new ArrayList<>();
    for (int i = 0; i < 300; i++) {
      ObjectNode row = Json.newObject();
      row.put("title", "작가" + i % 30);
      row.put("text", text(random, 25));
      rows.add(Json.compact(row));
    }
    Path input = Files.write(dir.resolve("in.jsonl"), rows);
    refine(
        input,
        "group_field=title",
        "held_out=" + dir.resolve("held.jsonl"),
        "held_out_fraction=0.4");
    Set<String> training = titles(dir.resolve("out.jsonl"));
    Set<String> heldOut = titles(dir.resolve("held.jsonl"));
    assertFalse(training.isEmpty() || heldOut.isEmpty());
    training.retainAll(heldOut);
    assertEquals(Set.of(), training);
  }

  private static Set<String> titles(Path file) throws IOException {
    Set<String> titles = new HashSet<>();
    for (String line : Files.readAllLines(file)) {
      titles.add(Json.object(line, "x").path("prompt").asText().replaceAll(" / .*", ""));
    }
    return titles;
  }

  @Test
  void longTextsAreCutBehindASentence() throws IOException {
    String first = "이 집은 처음 가 본 곳 가운데 가장 조용하고 깨끗해서 참 편안한 하루를 보냈다.";
    String text = first + " 다음 날에는 비가 내려 창가에 앉아 종일 책을 읽고 차를 마셨다.";
    Path input = Files.write(dir.resolve("in.jsonl"), List.of(row("제목", text)));
    refine(input, "max_words=20");
    assertEquals(
        " " + first,
        Json.object(Files.readString(dir.resolve("out.jsonl")), "x").path("completion").asText());
    assertMessage(
        "most went as too_long (1)", () -> refine(input, "max_words=20", "too_long=drop"));
  }

  @Test
  void aPostThatDisclosesCanGoAsAWhole() throws IOException {
    Random random = new Random(14);
    Path input =
        Files.write(
            dir.resolve("in.jsonl"),
            List.of(row("하나", text(random, 20) + " 소정의 원고료를 받았습니다."), row("둘", text(random, 20))));
    RefineReport removed = refine(input);
    assertEquals(2, removed.training());
    RefineReport dropped = refine(input, "disclosures=drop_post");
    assertEquals(1, dropped.training());
    assertEquals(1, dropped.drops().get(DropReason.SPONSORED));
  }

  @Test
  void tablesAreReadToo() throws IOException {
    Random random = new Random(15);
    Path csv =
        Files.writeString(
            dir.resolve("a.csv"),
            "title,text\n하나,\"" + text(random, 20) + "\n" + text(random, 5) + "\"\n");
    Path tsv =
        Files.writeString(dir.resolve("b.tsv"), "text\ttitle\n" + text(random, 20) + "\t둘\n");
    RefineReport report = refine(csv, "input=['" + csv + "', '" + tsv + "']");
    assertEquals(2, report.training());
  }

  @Test
  void reportsShowNoPersonalData() throws IOException {
    Path input =
        Files.write(
            dir.resolve("in.jsonl"),
            List.of(
                row("짧은 글", "전화 010-1234-5678"),
                "{\"title\": \"끊긴 줄 02-345-6789",
                row("하나", text(new Random(16), 20))));
    refine(input, "max_bad_rows=1");
    for (String suffix : List.of(".report.json", ".report.md")) {
      String report = Files.readString(dir.resolve("out" + suffix));
      assertFalse(report.contains("1234-5678") || report.contains("345-6789"), report);
      assertTrue(report.contains("in.jsonl:2"), report);
    }
  }

  @Test
  void whatCannotBeUsedIsOneLine() throws IOException {
    Path good =
        Files.write(dir.resolve("good.jsonl"), List.of(row("하나", text(new Random(17), 20))));
    Path empty = Files.writeString(dir.resolve("empty.jsonl"), "\n\n");
    Path bad =
        Files.write(
            dir.resolve("bad.jsonl"), List.of("{", row("하나", text(new Random(18), 20)), "["));
    Path negative =
        Files.write(dir.resolve("short.jsonl"), List.of(row("하나", "짧은 글"), row("둘", "또 짧은 글")));
    assertMessage("expected collected posts, found none", () -> refine(empty));
    assertMessage(
        "2 of 3 rows cannot be read, more than max_bad_rows (0.05) allows; for example "
            + bad
            + ":1: not valid JSON",
        () -> refine(bad));
    assertMessage(
        "of 2 rows no training example is left; most went as too_short (2)",
        () -> refine(negative));
    assertMessage("no such file", () -> refine(dir.resolve("none.jsonl")));
    assertMessage(
        "held_out: of 1 examples none was held out",
        () -> refine(good, "held_out=" + dir.resolve("h.jsonl"), "held_out_fraction=0.001"));
    assertMessage(
        "unknown key 'min_word'; did you mean min_words?", () -> refine(good, "min_word=3"));
    assertMessage(
        "min_words: expected a whole number from 1", () -> refine(good, "min_words=many"));
    assertMessage(
        "html: expected auto, always, never, found 'sometimes'",
        () -> refine(good, "html=sometimes"));
    assertMessage(
        "prompt: expected {title}, {keywords} or {first_words}, found '{name}'",
        () -> refine(good, "prompt='{name}'"));
    assertMessage(
        "disclosure_patterns: expected a regular expression",
        () -> refine(good, "disclosure_patterns=['(']"));
    assertMessage(
        "output: expected another file than the input", () -> refine(good, "output=" + good));
    assertMessage("no such file", () -> refine(good, "sentiment_model=none.model"));
    try (var left = Files.list(dir)) {
      List<String> names = left.map(file -> String.valueOf(file.getFileName())).sorted().toList();
      assertEquals(
          List.of("bad.jsonl", "empty.jsonl", "good.jsonl", "refine.yaml", "short.jsonl"),
          names,
          "nothing half-written");
    }
  }

  private static void assertMessage(String part, Executable call) {
    String message = assertThrows(InputException.class, call).getMessage();
    assertNotNull(message);
    assertTrue(message.contains(part), message);
  }
}
