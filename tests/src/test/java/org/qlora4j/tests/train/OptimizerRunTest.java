// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.cli.Main;
import org.qlora4j.common.Json;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;
import org.qlora4j.tests.support.CommandRuns;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.SmallModel;
import org.qlora4j.train.TrainingRun;

/** Whole runs of the example with every kind of optimizer: results, resuming, disks that fail. */
class OptimizerRunTest {
  private static final int STEPS = 6;
  private static final int SAVED = 4;

  private final Path directory;
  private final Path config;

  /** What a command printed. */
  private record Ran(int code, String err) {}

  OptimizerRunTest(@TempDir Path directory) throws IOException {
    this.directory = directory;
    this.config =
        Files.writeString(
            directory.resolve("run.yaml"),
            """
            model: %s
            train_file: %s
            val_set_size: 8
            sequence_length: 64
            lora_r: 16
            lora_dropout: 0.1
            learning_rate: 2e-3
            lr_scheduler_type: constant
            per_device_train_batch_size: 4
            max_steps: %d
            save_steps: %d
            logging_steps: 1
            """
                .formatted(
                    FixtureFiles.project("examples/model"),
                    FixtureFiles.project("examples/data/blog-reviews.jsonl"),
                    STEPS,
                    SAVED));
  }

  private Ran train(Path output, String... more) {
    List<String> arguments = new ArrayList<>(List.of("train", config.toString()));
    arguments.addAll(List.of("--set", "output_dir=" + output));
    arguments.addAll(List.of(more));
    StringWriter err = new StringWriter();
    int code =
        Main.run(
            new PrintWriter(new StringWriter()),
            new PrintWriter(err, true),
            arguments.toArray(new String[0]));
    return new Ran(code, err.toString());
  }

  private Path done(String name, String... more) {
    Path output = directory.resolve(name);
    Ran ran = train(output, more);
    assertEquals(0, ran.code(), ran.err());
    return output;
  }

  private static String[] optim(String kind) {
    return new String[] {"--set", "optim=" + kind};
  }

  private static String[] and(String[] some, String... more) {
    return Stream.concat(Arrays.stream(some), Arrays.stream(more)).toArray(String[]::new);
  }

  private static byte[] adapter(Path output) throws IOException {
    return Files.readAllBytes(
        output.resolve(TrainingRun.ADAPTER).resolve(PeftAdapterFile.WEIGHTS_FILE));
  }

  private static Path checkpoint(Path output) {
    return output.resolve("checkpoints").resolve("checkpoint-" + SAVED);
  }

  private static List<ObjectNode> steps(Path output) throws IOException {
    return Files.readAllLines(output.resolve("metrics.jsonl")).stream()
        .map(line -> Json.object(line, "metrics.jsonl"))
        .filter(line -> line.has("loss"))
        .toList();
  }

  private static List<Double> losses(Path output) throws IOException {
    return steps(output).stream().map(line -> line.get("loss").doubleValue()).toList();
  }

  /** One line that holds every part, and exit code 2. */
  private static void assertFixable(Ran ran, String... parts) {
    assertEquals(2, ran.code(), ran.err());
    List<String> lines = ran.err().lines().filter(line -> line.startsWith("qlora4j: ")).toList();
    assertEquals(1, lines.size(), ran.err());
    assertFalse(ran.err().contains("\tat "), ran.err());
    for (String part : parts) {
      assertTrue(lines.get(0).contains(part), () -> part + " in " + lines.get(0));
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"32bit", "8bit"})
  void pagedRunsAreThoseThatAreNot(String bits) throws IOException {
    boolean eightBit = bits.equals("8bit");
    Path resident = done("resident", optim(eightBit ? "adamw_8bit" : "adamw"));
    Path paged = done("paged", optim("paged_adamw_" + bits));
    assertEquals(losses(resident), losses(paged));
    assertArrayEquals(adapter(resident), adapter(paged));
    ObjectNode a = steps(resident).get(STEPS - 1);
    ObjectNode b = steps(paged).get(STEPS - 1);
    long total = a.get("optimizer_state_bytes").longValue();
    assertEquals(total, b.get("optimizer_state_bytes").longValue());
    assertTrue(a.get("optimizer_resident_bytes").longValue() >= total, a.toString());
    // A third of the example's states are of tensors too small for 8 bits, and stay resident.
    double share = eightBit ? 0.5 : 0.26;
    assertTrue(b.get("optimizer_resident_bytes").longValue() <= share * total, b.toString());
    assertTrue(b.get("optimizer_bytes_in").longValue() > 0, b.toString());
    assertFalse(a.has("optimizer_bytes_in"), a.toString());
    try (Stream<Path> left = Files.list(paged)) {
      assertFalse(left.anyMatch(f -> f.getFileName().toString().contains("pages")), "a page file");
    }
  }

  @Test
  void eightBitRunsLearnAlmostTheSame() throws IOException {
    Path exact = done("exact");
    Path eightBit = done("eightBit", optim("adamw_8bit"));
    List<Double> expected = losses(exact);
    List<Double> actual = losses(eightBit);
    // The first update uses moments that were not coded yet.
    assertEquals(expected.subList(0, 2), actual.subList(0, 2));
    assertFalse(expected.equals(actual), "no 8-bit moments were used");
    assertTrue(actual.get(STEPS - 1) < actual.get(0), actual.toString());
    // Six updates of about 2e-3 with moments that are off by up to a 142nd of their block's
    // largest.
    assertEquals(expected.get(STEPS - 1), actual.get(STEPS - 1), 0.02 * expected.get(0));
    long bytes = steps(eightBit).get(0).get("optimizer_state_bytes").longValue();
    long plain = steps(exact).get(0).get("optimizer_state_bytes").longValue();
    assertTrue(bytes < 0.6 * plain, bytes + " of " + plain);
  }

  @ParameterizedTest
  @ValueSource(strings = {"adamw", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"})
  void resumedRunsEndWithTheSameBits(String kind) throws IOException {
    Path output = done("out", optim(kind));
    byte[] expected = adapter(output);
    boolean eightBit = kind.endsWith("8bit");
    // From checkpoint-4 to the end, with the states in every place.
    for (String other :
        eightBit
            ? List.of("adamw_8bit", "paged_adamw_8bit")
            : List.of("adamw", "paged_adamw_32bit")) {
      Files.delete(output.resolve(TrainingRun.ADAPTER).resolve(PeftAdapterFile.WEIGHTS_FILE));
      Ran ran = train(output, and(optim(other), "--resume"));
      assertEquals(0, ran.code(), ran.err());
      assertTrue(ran.err().contains("resumed after step " + SAVED), ran.err());
      assertArrayEquals(expected, adapter(output), kind + " resumed with " + other);
    }
    assertFixable(
        train(output, and(optim(eightBit ? "adamw" : "paged_adamw_8bit"), "--resume")),
        "cannot resume from",
        eightBit
            ? "optim: saved 8-bit states, now 32-bit states"
            : "optim: saved 32-bit states, now 8-bit states");
    if (kind.equals("adamw")) {
      Path state = checkpoint(output).resolve("trainer_state.json");
      String text = Files.readString(state);
      String earlier = text.replaceAll("(?m)^.*\"optim\" : .*\n", "");
      assertFalse(text.equals(earlier), text);
      Files.writeString(state, earlier);
      assertEquals(0, train(output, "--resume").code(), "a checkpoint of an earlier version");
      assertArrayEquals(expected, adapter(output));
    }
  }

  /** What no run writes there is refused before anything is computed or cut off. */
  @Test
  void damagedStatesAreRefused() throws IOException {
    Path output = done("out");
    Path state = checkpoint(output).resolve("trainer_state.json");
    Path metrics = output.resolve("metrics.jsonl");
    String text = Files.readString(state);
    byte[] lines = Files.readAllBytes(metrics);
    for (String[] change :
        new String[][] {
          {"\"metrics_bytes\" : ", "metrics_bytes", "-"},
          {"\"step\" : ", "step", "1000000"},
          {"\"step\" : ", "step: expected 4, as the directory's name says", "3, \"x\" : "},
          {"\"trained_seconds\" : ", "trained_seconds", "null, \"x\" : "},
          {"\"settings\" : ", "settings", "7, \"x\" : "},
          {"\"kernel_pack\" : ", "kernel_pack", "[1], \"x\" : "},
          {"\"data_fingerprint\" : ", "the run has changed", "\"a\\n\", \"x\" : "}
        }) {
      String changed = text.replace(change[0], change[0] + change[2]);
      assertFalse(changed.equals(text), change[0]);
      Files.writeString(state, changed);
      assertFixable(train(output, "--resume"), change[1]);
      assertArrayEquals(lines, Files.readAllBytes(metrics));
    }
    Files.writeString(state, text);
    assertEquals(0, train(output, "--resume").code());
  }

  @Test
  void offloadedActivationsChangeNoBit() throws IOException {
    Path kept = done("kept");
    for (String every : List.of("1", "2")) {
      Path offloaded =
          done(
              "offloaded" + every,
              "--set",
              "activation_offloading=true",
              "--set",
              "checkpoint_every=" + every);
      assertEquals(losses(kept), losses(offloaded));
      assertArrayEquals(adapter(kept), adapter(offloaded));
      assertTrue(steps(offloaded).get(STEPS - 1).has("activation_bytes_in"));
      try (Stream<Path> left = Files.list(offloaded)) {
        assertFalse(
            left.anyMatch(f -> f.getFileName().toString().contains("pages")), "a page file");
      }
    }
    assertFixable(
        train(
            directory.resolve("out"),
            "--set",
            "activation_offloading=true",
            "--set",
            "gradient_checkpointing=false"),
        "activation_offloading: expected false, or gradient_checkpointing: true");
  }

  @Test
  void selectiveCheckpointingChangesNoBitAndMayChangeWhenResumed() throws IOException {
    Path plain = done("plain");
    String[] offloading = {"--set", "activation_offloading=true", "--set", "checkpoint_every=2"};
    for (String save : List.of("[attention]", "[mlp, qkv]", "[attention, mlp, qkv, residual]")) {
      String[] chosen = {"--set", "checkpoint_save=" + save};
      Path selective = done("selective", chosen);
      assertEquals(losses(plain), losses(selective), save);
      assertArrayEquals(adapter(plain), adapter(selective), save);
      Path offloaded = done("offloaded", and(chosen, offloading));
      assertEquals(losses(plain), losses(offloaded), save);
      assertArrayEquals(adapter(plain), adapter(offloaded), save);
      // From checkpoint-4 to the end, with more, less and nothing kept.
      for (String[] other :
          List.of(and(chosen), offloading, new String[] {"--set", "checkpoint_save=residual"})) {
        Files.delete(selective.resolve(TrainingRun.ADAPTER).resolve(PeftAdapterFile.WEIGHTS_FILE));
        Ran ran = train(selective, and(other, "--resume"));
        assertEquals(0, ran.code(), ran.err());
        assertTrue(ran.err().contains("resumed after step " + SAVED), ran.err());
        assertArrayEquals(adapter(plain), adapter(selective), save);
      }
    }
  }

  /** With more layers than resident pages, and several micro-batches of different length. */
  @Test
  void offloadedActivationsOfADeepModelChangeNoBit() throws IOException {
    Path shape =
        Files.writeString(
            directory.resolve("deep.json"),
            SmallModel.llama(4608, 64, 12, 4, 2, 96).replace("512", "256"));
    Path model = directory.resolve("deep");
    assertEquals(
        0,
        Main.run(
            new PrintWriter(new StringWriter()),
            new PrintWriter(new StringWriter()),
            "make-model",
            "--config",
            shape.toString(),
            "--tokenizer",
            FixtureFiles.project("examples/model").toString(),
            model.toString()));
    String[] deep = {
      "--set", "model=" + model, "--set", "gradient_accumulation_steps=3", "--set", "max_steps=3"
    };
    Path kept = done("kept", deep);
    Path selective =
        done(
            "selective",
            and(
                deep,
                "--set",
                "activation_offloading=true",
                "--set",
                "checkpoint_save=[attention, mlp]"));
    assertEquals(losses(kept), losses(selective));
    assertArrayEquals(adapter(kept), adapter(selective));
    for (String every : List.of("1", "2", "5")) {
      Path offloaded =
          done(
              "offloaded" + every,
              and(
                  deep,
                  "--set",
                  "activation_offloading=true",
                  "--set",
                  "checkpoint_every=" + every));
      assertEquals(losses(kept), losses(offloaded), "every " + every);
      assertArrayEquals(adapter(kept), adapter(offloaded), "every " + every);
      ObjectNode last = steps(offloaded).get(2);
      if (every.equals("1")) {
        // Kept tensors leave memory with their inputs.
        long more = steps(selective).get(2).get("activation_bytes_out").longValue();
        assertTrue(more > 3 * last.get("activation_bytes_out").longValue(), more + ", " + last);
      }
      // Of 11 kept inputs three are resident; the others left and came back in each of nine passes.
      // Of 5 or 2 fewer moved, or none.
      long passes = every.equals("1") ? 9 * 8 : every.equals("2") ? 9 * 2 : 0;
      long page = 2L * 64 * 64;
      assertTrue(last.get("activation_bytes_in").longValue() >= passes * page, every + ": " + last);
      assertTrue(
          last.get("activation_bytes_out").longValue() >= passes * page, every + ": " + last);
    }
  }

  @Test
  void directoriesThatCannotHoldPages() throws IOException {
    Path output = directory.resolve("out");
    for (String nowhere : List.of(directory.resolve("absent").toString(), "/sys")) {
      assertFixable(
          train(output, and(optim("paged_adamw_32bit"), "--set", "paging_dir=" + nowhere)),
          "paging_dir",
          nowhere);
    }
  }

  /** A limit on the size of files stands for a disk that is full. */
  @Test
  void aDiskWithoutRoomForThePages() throws IOException, InterruptedException {
    try (KernelPack pack = KernelPack.open(PackOptions.defaults())) {
      Assumptions.assumeTrue(
          pack.name().startsWith("cpu-"), () -> pack.name() + " does not page to a file");
    }
    Path output = done("out");
    byte[] expected = adapter(output);
    byte[] states = Files.readAllBytes(checkpoint(output).resolve("optimizer.safetensors"));
    assertTrue(states.length > 1 << 20, "the limit would not be reached: " + states.length);

    assertFixable(limited(output, optim("paged_adamw_32bit")), "no room", "paging_dir");
    assertArrayEquals(
        states, Files.readAllBytes(checkpoint(output).resolve("optimizer.safetensors")));

    Ran resumed = train(output, and(optim("paged_adamw_32bit"), "--resume"));
    assertEquals(0, resumed.code(), resumed.err());
    assertArrayEquals(expected, adapter(output), "after the disk had room again");
  }

  @Test
  void aDiskThatIsFullWhenACheckpointIsWritten() throws IOException, InterruptedException {
    Path output = done("out");
    byte[] expected = adapter(output);
    byte[] states = Files.readAllBytes(checkpoint(output).resolve("optimizer.safetensors"));
    assertTrue(states.length > 1 << 20, "the limit would not be reached: " + states.length);

    assertFixable(
        limited(output, "--set", "save_steps=5"), "cannot write", "checkpoint-5", "File too large");
    try (Stream<Path> checkpoints = Files.list(output.resolve("checkpoints"))) {
      assertEquals(
          List.of(checkpoint(output)), checkpoints.toList(), "the last checkpoint, and no part");
    }
    assertArrayEquals(
        states, Files.readAllBytes(checkpoint(output).resolve("optimizer.safetensors")));

    Ran resumed = train(output, "--resume");
    assertEquals(0, resumed.code(), resumed.err());
    assertArrayEquals(expected, adapter(output), "after the disk had room again");
  }

  @Test
  void outputsThatCannotBeMade() throws IOException {
    assertFixable(train(Path.of("/sys/qlora4j")), "cannot make output_dir /sys/qlora4j");
    Path file = Files.writeString(directory.resolve("a-file"), "x");
    assertFixable(train(file.resolve("out")), "cannot make output_dir", "a-file");
  }

  /** Resumes in a process that cannot write files beyond 1 MiB. */
  private Ran limited(Path output, String... more) throws IOException, InterruptedException {
    Path log = directory.resolve("limited.log");
    List<String> command =
        new ArrayList<>(List.of("bash", "-c", "ulimit -f 1024; exec \"$@\"", "bash"));
    command.addAll(
        CommandRuns.command("train", config, "--set", "output_dir=" + output, "--resume"));
    command.addAll(List.of(more));
    Process process =
        new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(log.toFile()).start();
    assertTrue(process.waitFor(3, TimeUnit.MINUTES), "the process did not end");
    return new Ran(process.exitValue(), Files.readString(log, StandardCharsets.UTF_8));
  }
}
