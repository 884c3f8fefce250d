// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.train;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.model.Parameter;
import org.qlora4j.model.ParameterSet;
import org.qlora4j.model.WeightFiles;

/**
 * The checkpoints of a run, {@code output_dir/checkpoints/checkpoint-N}: weights or adapter,
 * optimizer moments and {@link TrainingState}. Each appears whole or not at all.
 */
final class TrainingCheckpoints {

  private static final String DIRECTORY = "checkpoints";
  private static final String OPTIMIZER = "optimizer.safetensors";
  private static final Pattern NAME = Pattern.compile("checkpoint-(\\d{1,9})");

  /** A message names these; a run that differs in more is another one altogether. */
  private static final int MOST_DIFFERENCES = 8;

  private final Path outputDir;
  private final int limit;
  private final ParameterSet trained;
  private final AdamWOptimizer optimizer;
  private final String weightsFile;
  private final WeightsWriter weightsWriter;

  /** Writes the trained tensors into a directory, in f32. */
  interface WeightsWriter {
    void write(Path directory) throws IOException;
  }

  /**
   * @param limit newest checkpoints to keep; 0 for all
   * @param weightsFile the file that {@code weightsWriter} writes the trained tensors to, under
   *     their parameters' names
   */
  TrainingCheckpoints(
      Path outputDir,
      int limit,
      ParameterSet trained,
      AdamWOptimizer optimizer,
      String weightsFile,
      WeightsWriter weightsWriter) {
    this.outputDir = outputDir;
    this.limit = limit;
    this.trained = trained;
    this.optimizer = optimizer;
    this.weightsFile = weightsFile;
    this.weightsWriter = weightsWriter;
  }

  private Path directory() {
    return directory(outputDir);
  }

  private static Path directory(Path outputDir) {
    return outputDir.resolve(DIRECTORY);
  }

  /** The checkpoint of a step. */
  static Path path(Path outputDir, int step) {
    return directory(outputDir).resolve("checkpoint-" + step);
  }

  /** Where the newest checkpoint of a run stands, or null where there is none. */
  static @Nullable TrainingState newest(Path outputDir) {
    List<Path> found = list(directory(outputDir));
    return found.isEmpty() ? null : TrainingState.read(found.get(found.size() - 1));
  }

  /** Makes output_dir, and moves what an earlier run left there out of the way. */
  void startAnew(Path metrics, Progress progress) {
    try {
      Files.createDirectories(outputDir);
      if (list(directory()).isEmpty()) {
        return;
      }
      Path kept = unused();
      Files.createDirectory(kept);
      Files.move(directory(), kept.resolve(DIRECTORY));
      if (Files.exists(metrics)) {
        Files.move(metrics, kept.resolve(metrics.getFileName()));
      }
      progress.message(
          "checkpoints of an earlier run were moved to "
              + kept
              + "; --resume would have gone on from them");
    } catch (IOException e) {
      throw new InputException("cannot write to output_dir " + outputDir + ": " + e, e);
    }
  }

  private Path unused() {
    Path path = outputDir.resolve("earlier-1");
    for (int i = 2; Files.exists(path); i++) {
      path = outputDir.resolve("earlier-" + i);
    }
    return path;
  }

  /**
   * Puts the newest checkpoint's tensors into the parameters and the optimizer. Null when there is
   * no checkpoint.
   *
   * @throws InputException when it belongs to another run
   */
  @Nullable TrainingState restoreNewest(TrainingState.Identity now) {
    List<Path> found = list(directory());
    if (found.isEmpty()) {
      return null;
    }
    Path newest = found.get(found.size() - 1);
    TrainingState state = TrainingState.read(newest);
    if (state.step() != number(newest)) {
      throw new InputException(
          newest.resolve(TrainingState.FILE)
              + ": step: expected "
              + number(newest)
              + ", as the directory's name says, found "
              + state.step());
    }
    List<String> differences = state.identity().differences(now);
    if (!differences.isEmpty()) {
      throw new InputException(changed(newest, differences));
    }
    List<String> names = trained.parameters().stream().map(Parameter::name).toList();
    List<DeviceTensor> values = trained.parameters().stream().map(Parameter::value).toList();
    WeightFiles.read(newest.resolve(weightsFile), names, values);
    optimizer.read(newest.resolve(OPTIMIZER), state.step());
    return state;
  }

  /** Why a checkpoint is not one of this run. */
  static String changed(Path checkpoint, List<String> differences) {
    return "cannot resume from "
        + checkpoint
        + ", the run has changed: "
        + String.join("; ", differences.subList(0, Math.min(MOST_DIFFERENCES, differences.size())))
        + (differences.size() > MOST_DIFFERENCES
            ? "; and " + (differences.size() - MOST_DIFFERENCES) + " more"
            : "")
        + "; undo the changes, or train anew without --resume";
  }

  /** Writes a checkpoint and deletes those beyond the limit. */
  void save(TrainingState state) {
    Path target = path(outputDir, state.step());
    try (AtomicOutput out = AtomicOutput.directory(target)) {
      weightsWriter.write(out.path());
      optimizer.write(out.path().resolve(OPTIMIZER));
      state.write(out.path());
      out.commit();
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write the checkpoint " + target, e);
    }
    prune();
  }

  private void prune() {
    if (limit == 0) {
      return;
    }
    List<Path> found = list(directory());
    try {
      for (Path old : found.subList(0, Math.max(0, found.size() - limit))) {
        // Without its state file a checkpoint is no longer one, so a deletion cut short leaves
        // nothing
        // that could be resumed from.
        Files.delete(old.resolve(TrainingState.FILE));
        AtomicOutput.deleteTree(old);
      }
      for (Path rest : deletionsCutShort()) {
        AtomicOutput.deleteTree(rest);
      }
    } catch (IOException e) {
      throw new UncheckedIOException("cannot delete a checkpoint in " + directory(), e);
    }
  }

  /**
   * Checkpoints appear whole, so one without its state file is what a killed run left of a
   * deletion.
   */
  private List<Path> deletionsCutShort() throws IOException {
    try (Stream<Path> entries = Files.list(directory())) {
      return entries
          .filter(p -> number(p) >= 0 && !Files.exists(p.resolve(TrainingState.FILE)))
          .toList();
    }
  }

  /** The complete checkpoints, oldest first; leftovers of killed runs are cleaned up. */
  private static List<Path> list(Path directory) {
    if (!Files.isDirectory(directory)) {
      return List.of();
    }
    List<Path> found = new ArrayList<>();
    try {
      for (Path interrupted : interrupted(directory)) {
        AtomicOutput.recover(interrupted);
      }
      try (Stream<Path> entries = Files.list(directory)) {
        entries
            .filter(p -> number(p) >= 0 && Files.isRegularFile(p.resolve(TrainingState.FILE)))
            .forEach(found::add);
      }
    } catch (IOException e) {
      throw new InputException("cannot read the checkpoints in " + directory + ": " + e, e);
    }
    found.sort(Comparator.comparingInt(TrainingCheckpoints::number));
    return found;
  }

  /** The checkpoints that hidden leftovers of killed runs belong to. */
  private static List<Path> interrupted(Path directory) throws IOException {
    try (Stream<Path> entries = Files.list(directory)) {
      return entries
          .map(p -> p.getFileName().toString())
          .filter(n -> n.startsWith(".checkpoint-"))
          .map(n -> n.substring(1).replaceFirst("\\.q4j-.*", ""))
          .distinct()
          .map(directory::resolve)
          .toList();
    }
  }

  private static int number(Path checkpoint) {
    Path name = checkpoint.getFileName();
    Matcher matcher = NAME.matcher(name == null ? "" : name.toString());
    return matcher.matches() ? Integer.parseInt(matcher.group(1)) : -1;
  }
}
