// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.refine;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.ShrinkingMode;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.Progress;
import org.qlora4j.refine.RefineConfigReader;
import org.qlora4j.refine.RefineReport;
import org.qlora4j.refine.Refinement;

/** The accounting holds for whatever bytes there are in a file. */
final class RefinementProperties {
  private static final String GOOD = "{\"text\": \"골목 안 작은 카페에서 따뜻한 커피를 마시며 친구와 오래 이야기를 나누었어요.\"}";

  @Provide
  Arbitrary<List<String>> lines() {
    Arbitrary<String> anything =
        Arbitraries.strings().ofMaxLength(80).map(RefinementProperties::wellFormed);
    Arbitrary<String> pieces =
        Arbitraries.of(
                "{",
                "}",
                "\"",
                "text",
                ":",
                ",",
                "\t",
                "좋아요 ",
                "<p>",
                "협찬을 받아 작성 ",
                "010-1234-5678 ",
                "😍",
                "\\u0000",
                "\\")
            .list()
            .ofMaxSize(20)
            .map(list -> String.join("", list));
    Arbitrary<String> rows =
        Arbitraries.strings()
            .withChars("가나다라마바사아 .!?<>&;#😍ㅋ01-@\t")
            .ofMaxLength(300)
            .map(RefinementProperties::wellFormed)
            .map(text -> "{\"text\": \"" + text.replace("\t", " ") + "\"}");
    return Arbitraries.oneOf(List.of(anything, pieces, rows))
        .map(line -> line.replaceAll("[\\r\\n]", " "))
        .list()
        .ofMaxSize(30);
  }

  /** Without halves of surrogate pairs, which no UTF-8 file can hold. */
  private static String wellFormed(String text) {
    return new String(text.getBytes(StandardCharsets.UTF_8), StandardCharsets.UTF_8);
  }

  @Property(tries = 25, shrinking = ShrinkingMode.BOUNDED, seed = "20261127")
  void rowsAreKeptOrDroppedForAReason(@ForAll("lines") List<String> lines) throws IOException {
    for (String name : List.of("in.jsonl", "in.tsv", "in.csv")) {
      Path dir = Files.createTempDirectory("refine");
      try {
        boolean table = !name.endsWith(".jsonl");
        StringBuilder content =
            new StringBuilder(
                table ? "text\n골목 안 작은 카페에서 따뜻한 커피를 마시며 친구와 오래 이야기를 나누었어요.\n" : GOOD + "\n");
        lines.forEach(line -> content.append(line).append('\n'));
        Path input = Files.writeString(dir.resolve(name), content.toString());
        Path config =
            Files.writeString(
                dir.resolve("c.yaml"),
                "{input: '"
                    + input
                    + "', output: '"
                    + dir.resolve("o.jsonl")
                    + "', max_bad_rows: 1, prompt: '{keywords}', min_words: 3}");
        RefineReport report =
            Refinement.run(RefineConfigReader.read(config, List.of()), Progress.none());
        long drops = report.drops().values().stream().mapToLong(Long::longValue).sum();
        assertEquals(report.rows(), report.kept() + drops);
        assertEquals(report.training(), Files.readAllLines(dir.resolve("o.jsonl")).size());
        if (!name.endsWith(".csv")) {
          // Spaces and tabs alone are no row; in CSV a row may take several lines.
          long written =
              lines.stream()
                  .filter(line -> !line.chars().allMatch(c -> c == ' ' || c == '\t'))
                  .count();
          assertEquals(written + 1, report.rows());
        }
      } finally {
        AtomicOutput.deleteTree(dir);
      }
    }
  }
}
