// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.bytedeco.pytorch.global.torch;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.common.Json;
import org.qlora4j.tests.support.CommandRuns.Ran;
import org.qlora4j.tests.support.Packs;

/**
 * The measuring commands on tiny shapes: what they write, that a wrong result is reported and not
 * timed, exit codes. Not the times: a test machine is shared.
 */
class BenchTest {
  private static final List<String> COLUMNS =
      List.of(
          "operator",
          "direction",
          "m",
          "n",
          "k",
          "rank",
          "pack",
          "milliseconds",
          "tflops",
          "gbps",
          "share_of_limit",
          "rival",
          "rival_milliseconds",
          "ratio");

  /**
   * So many that together they take far more than the tick of 10 ms in which processor time is
   * counted, where one alone may have none of it.
   */
  private static final int STEPS = 100;

  private final Path folder;
  private final int torchThreads = torch.get_num_threads();

  BenchTest(@TempDir Path folder) {
    this.folder = folder;
  }

  @AfterEach
  void restore() {
    System.clearProperty("qlora4j.pack");
    torch.set_num_threads(torchThreads);
  }

  /** The rows of a CSV file behind its heading, which must be the documented one. */
  private static List<List<String>> rows(Path csv) throws IOException {
    List<List<String>> lines =
        Files.readAllLines(csv).stream().map(line -> List.of(line.split(",", -1))).toList();
    assertEquals(COLUMNS, lines.get(0));
    List<List<String>> rows = lines.subList(1, lines.size());
    rows.forEach(row -> assertEquals(COLUMNS.size(), row.size(), row.toString()));
    return rows;
  }

  private static String cell(List<String> row, String column) {
    return row.get(COLUMNS.indexOf(column));
  }

  private static double number(List<String> row, String column) {
    return Double.parseDouble(cell(row, column));
  }

  private void linear(String pack, String format) throws IOException {
    Path csv = folder.resolve(pack + format + ".csv");
    Ran ran =
        run(
            "bench",
            "linear",
            "--shapes",
            "64x96,40x72",
            "--m",
            "1,21",
            "--rank",
            8,
            "--format",
            format,
            "--repetitions",
            1,
            "--threads",
            2,
            "--pack",
            pack,
            "--csv",
            csv);
    assertEquals(0, ran.code(), ran.err() + ran.out());
    List<List<String>> rows = rows(csv);
    assertEquals(8, rows.size());
    for (List<String> row : rows) {
      assertEquals("linear_" + format, cell(row, "operator"));
      assertEquals(pack, cell(row, "pack"));
      assertEquals("8", cell(row, "rank"));
      assertTrue(number(row, "milliseconds") > 0, row.toString());
      assertTrue(number(row, "rival_milliseconds") > 0, row.toString());
      assertTrue(number(row, "ratio") > 0, row.toString());
      assertTrue(number(row, "gbps") > 0, row.toString());
      assertTrue(cell(row, "rival").startsWith("libtorch "), row.toString());
    }
    assertEquals(
        List.of("forward", "backward"),
        rows.subList(0, 2).stream().map(row -> cell(row, "direction")).toList());
    assertEquals(List.of("1", "64", "96"), rows.get(0).subList(2, 5));
  }

  @Test
  void linearOfTheReference() throws IOException {
    for (String format : List.of("nf4", "fp4", "int8", "fp8", "dense")) {
      linear("reference", format);
    }
  }

  @Test
  void linearSharesTheLimitThatAPackMeasures() throws IOException {
    Assumptions.assumeTrue(Packs.opens("cpu-avx2"), "no CPU pack runs here");
    linear("cpu-avx2", "nf4");
    for (List<String> row : rows(folder.resolve("cpu-avx2nf4.csv"))) {
      assertTrue(number(row, "share_of_limit") > 0, row.toString());
    }
  }

  /** The product alone, in f32, which is what this pack has. */
  private static Ran linearOfBroken(Object... more) {
    List<Object> args =
        new ArrayList<>(List.of("bench", "linear", "--pack", "broken", "--compute", "float32"));
    args.addAll(List.of("--format", "dense", "--rank", 0));
    args.addAll(List.of(more));
    return run(args.toArray());
  }

  @Test
  void wrongResultIsReportedAndNotTimed() throws IOException {
    Path csv = folder.resolve("wrong.csv");
    Ran ran = linearOfBroken("--shapes", "24x13", "--m", "4", "--csv", csv);
    assertEquals(1, ran.code(), ran.err() + ran.out());
    assertTrue(
        ran.out().contains("WRONG: linear_dense forward 4 x 24 x 13: y is off by"), ran.out());
    assertTrue(ran.out().contains("not supported by broken"), "it has no backward: " + ran.out());
    List<List<String>> rows = rows(csv);
    assertEquals(1, rows.size());
    assertEquals("", cell(rows.get(0), "milliseconds"));
    assertEquals("", cell(rows.get(0), "ratio"));

    // The defect is behind the last full group of eight columns: without such a rest all is well.
    Ran right = linearOfBroken("--shapes", "24x16", "--m", "4", "--repetitions", 1);
    assertEquals(0, right.code(), right.err() + right.out());

    Ran norm =
        run("bench", "ops", "--only", "rms_norm", "--pack", "broken", "--compute", "float32");
    assertEquals(1, norm.code(), norm.err() + norm.out());
    assertTrue(norm.out().contains("WRONG: rms_norm forward"), norm.out());
  }

  @Test
  void everyOperatorIsMeasured() throws IOException {
    Path csv = folder.resolve("ops.csv");
    Ran ran =
        run(
            "bench",
            "ops",
            "--rows",
            24,
            "--columns",
            128,
            "--vocab",
            300,
            "--tokens",
            "24",
            "--repetitions",
            1,
            "--threads",
            2,
            "--csv",
            csv);
    assertEquals(0, ran.code(), ran.err() + ran.out());
    List<List<String>> rows = rows(csv);
    List<String> names = rows.stream().map(row -> cell(row, "operator")).distinct().toList();
    assertEquals(
        List.of(
            "rms_norm",
            "layer_norm",
            "rotary",
            "swiglu",
            "gelu",
            "cross_entropy",
            "adamw",
            "adamw_8bit",
            "quantize_4bit",
            "dequantize_4bit",
            "attention"),
        names);
    for (List<String> row : rows) {
      assertTrue(number(row, "milliseconds") > 0 && number(row, "gbps") > 0, row.toString());
      assertEquals(cell(row, "rival").isEmpty(), cell(row, "ratio").isEmpty(), row.toString());
    }
    assertEquals(
        List.of("forward", "backward"),
        rows.stream()
            .filter(row -> cell(row, "operator").equals("attention"))
            .map(row -> cell(row, "direction"))
            .toList());
  }

  @Test
  void stepWritesItsShapeAndItsFigures() throws IOException {
    Path csv = folder.resolve("step.csv");
    Ran ran =
        step(
            "--sequence",
            16,
            "--batch",
            2,
            "--steps",
            STEPS,
            "--threads",
            2,
            "--profile",
            "--csv",
            csv);
    assertEquals(0, ran.code(), ran.err() + ran.out());
    List<String> lines = Files.readAllLines(csv);
    assertEquals(2, lines.size());
    assertEquals(
        "pack,threads,hidden,ffn,layers,heads,kv_heads,vocab,rank,sequence,batch,steps,checkpointing,tokens_per_s,seconds,cpu_seconds,peak_bytes,activation_bytes",
        lines.get(0));
    String[] cells = lines.get(1).split(",", -1);
    assertEquals(18, cells.length);
    assertEquals(
        "2,64,128,2,4,2,300,4,16,2," + STEPS + ",on",
        String.join(",", Arrays.copyOfRange(cells, 1, 13)));
    double seconds = Double.parseDouble(cells[14]);
    // Both are rounded in the file.
    assertEquals(32 / Double.parseDouble(cells[13]), seconds, 1e-6 + 0.01 * seconds);
    double cpuSeconds = Double.parseDouble(cells[15]);
    assertTrue(cpuSeconds > 0, lines.get(1));
    System.out.println(STEPS + " steps of " + seconds + " s, " + cpuSeconds + " s of a processor");
    assertTrue(Long.parseLong(cells[16]) > 0);
    for (String part :
        new String[] {
          "linear, forward", "attention, backward", "optimizer", "Java, JNI, loader, libtorch"
        }) {
      assertTrue(ran.out().contains(part), ran.out());
    }
  }

  /** {@code bench step} of two small blocks. */
  private static Ran step(Object... arguments) {
    List<Object> all =
        new ArrayList<>(
            List.of("bench", "step", "--hidden", 64, "--ffn", 128, "--layers", 2, "--heads", 4));
    all.addAll(List.of("--kv-heads", 2, "--vocab", 300, "--rank", 4));
    all.addAll(List.of(arguments));
    return run(all.toArray());
  }

  /** What is kept of the first of two blocks: outputs of gate and up, of 128 features in bf16. */
  @Test
  void stepKeepsWhatItIsTold() throws IOException {
    long[] activations = new long[3];
    String[] kinds = {"on", "mlp", "off"};
    for (int i = 0; i < kinds.length; i++) {
      Path csv = folder.resolve(i + ".csv");
      Ran ran = step("--sequence", 32, "--steps", 1, "--checkpointing", kinds[i], "--csv", csv);
      assertEquals(0, ran.code(), ran.err() + ran.out());
      activations[i] = Long.parseLong(Files.readAllLines(csv).get(1).split(",", -1)[17]);
    }
    assertEquals(32 * 2 * 128 * 2, activations[1] - activations[0]);
    assertTrue(activations[2] > activations[1]);
    Ran wrong = run("bench", "step", "--checkpointing", "heads");
    assertEquals(2, wrong.code());
    assertTrue(wrong.err().contains("--checkpointing: expected a list of attention, mlp"));
  }

  @Test
  void machineSaysWhatRunsAndHowFast() {
    Path json = folder.resolve("machine.json");
    Ran ran = run("info", "--machine", "--threads", 1, "--json", json);
    assertEquals(0, ran.code(), ran.err());
    ObjectNode figures = Json.readObject(json, 1 << 20);
    assertEquals(1, figures.get("threads").intValue());
    assertTrue(figures.get("features").has("AVX2"), figures.toString());
    String pack = figures.get("pack").textValue();
    assertFalse(figures.get("other_packs").has(pack), figures.toString());
    if (pack.startsWith("cpu-")) {
      assertEquals("can run", figures.get("other_packs").get("reference").textValue());
      assertTrue(figures.get("read_bytes_per_s").doubleValue() > 1e8, figures.toString());
      assertTrue(figures.get("f32_operations_per_s").doubleValue() > 1e9, figures.toString());
      assertTrue(figures.get("bf16_operations_per_s").doubleValue() > 1e9, figures.toString());
    }
    Ran plain = run("info", "--machine", "--pack", "reference", "--threads", 1);
    assertEquals(0, plain.code(), plain.err());
    assertTrue(plain.out().contains("not measured by this pack"), plain.out());
  }

  @Test
  void wrongOptionsAreOneLine() {
    assertFixable(run("bench"), "linear, ops or step");
    assertFixable(run("bench", "linears"), "linears");
    assertFixable(run("bench", "linear", "--shapes", "4096"), "--shapes", "4096");
    assertFixable(run("bench", "linear", "--shapes", "0x8"), "--shapes");
    assertFixable(run("bench", "linear", "--m", "0"), "--m");
    assertFixable(run("bench", "linear", "--m", "one"), "--m", "one");
    assertFixable(run("bench", "linear", "--rank", "-1"), "--rank");
    assertFixable(run("bench", "linear", "--format", "nf5"), "nf5");
    assertFixable(run("bench", "linear", "--threads", "-2"), "--threads");
    assertFixable(run("bench", "linear", "--pack", "no-such-pack"), "no-such-pack");
    assertFixable(run("bench", "ops", "--only", "rms"), "rms", "layer_norm");
    assertFixable(run("bench", "ops", "--repetitions", "0"), "--repetitions");
    assertFixable(run("bench", "step", "--hidden", "0"), "--hidden");
    assertFixable(run("bench", "step", "--heads", "3"), "3");
    assertFixable(run("bench", "step", "--sequence", "1"), "--sequence");
    assertFixable(run("info", "--machine", "--threads", "-1"), "--threads");
    for (String command : List.of("linear", "ops", "step")) {
      String help = run("bench", command, "--help").out();
      assertTrue(help.contains("Usage: qlora4j bench " + command), help);
      assertTrue(help.contains("--csv"), help);
    }
    assertTrue(run("--help").out().contains("  bench"));
  }
}
