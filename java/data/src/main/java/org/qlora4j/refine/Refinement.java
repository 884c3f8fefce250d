// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.MemoryUse;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Text;
import org.qlora4j.refine.PostProcessor.Candidate;
import org.qlora4j.refine.PostProcessor.Dropped;
import org.qlora4j.sentiment.SentimentModel;

/**
 * Turns collected posts into training examples: {@code Refinement.run(config, progress)}. Rows are
 * read as a stream, cleaned and judged on all cores, and then, in their order, compared with what
 * was kept before. The result does not depend on the number of threads.
 *
 * <p>With held-out examples a second pass goes over the training examples and drops those that
 * share a run of words with a held-out one.
 */
public final class Refinement {
  private static final long PROGRESS_NANOS = 100_000_000;

  private static final String WHOLE_TEXT = "whole_text";

  private final RefineConfig config;
  private final Progress progress;
  private final @Nullable SentimentModel sentiment;
  private final ReportCounter counter;
  private final DuplicateIndex duplicates;

  /** Where each text in `duplicates` came from: file and line. */
  private long[] sources = new long[1024];

  /** Runs of words of the held-out examples. */
  private final Hashes.Numbers heldOutRuns = new Hashes.Numbers();

  private Refinement(RefineConfig config, Progress progress) {
    this.config = config;
    this.progress = progress;
    Path model = config.filters().sentimentModel();
    this.sentiment = model == null ? null : SentimentModel.read(model);
    this.counter = new ReportCounter(config.output().samples(), sentiment != null);
    this.duplicates = new DuplicateIndex(config.filters().nearDuplicate());
  }

  /**
   * Runs over the input and writes examples and reports.
   *
   * @throws InputException when too many rows cannot be read, or nothing is left
   */
  public static RefineReport run(RefineConfig config, Progress progress) {
    try {
      return new Refinement(config, progress).run();
    } catch (IOException e) {
      throw new InputException("cannot write " + config.output().training() + ": " + e, e);
    }
  }

  private RefineReport run() throws IOException {
    long begun = System.nanoTime();
    Path training = config.output().training();
    Path heldOut = config.output().heldOut();
    try (AtomicOutput trainingOut = AtomicOutput.file(training);
        AtomicOutput first = AtomicOutput.file(ReportFiles.beside(training, ".first-pass"));
        AtomicOutput heldOutOut =
            AtomicOutput.file(
                heldOut == null ? ReportFiles.beside(training, ".no-held-out") : heldOut)) {
      boolean twoPasses = heldOut != null && config.output().sharedWords() > 0;
      pass(twoPasses ? first.path() : trainingOut.path(), twoPasses, heldOutOut.path());
      if (twoPasses) {
        dropShared(first.path(), trainingOut.path());
      }
      check();
      RefineReport report =
          counter.report((System.nanoTime() - begun) / 1e9, MemoryUse.now().peakBytes());
      ObjectNode about = sentiment == null ? null : sentiment.about();
      if (heldOut != null) {
        heldOutOut.commit();
      }
      trainingOut.commit();
      new ReportFiles(config, report, about).write();
      return report;
    }
  }

  private void pass(Path trainingPath, boolean twoPasses, Path heldOutPath) throws IOException {
    long total = 0;
    for (Path file : config.input().files()) {
      total += Files.exists(file) ? Files.size(file) : 0;
    }
    progress.start("refining (KiB)", total >> 10);
    long[] shown = {System.nanoTime()};
    try (BufferedWriter training = Files.newBufferedWriter(trainingPath);
        BufferedWriter heldOut = Files.newBufferedWriter(heldOutPath)) {
      new OrderedRows(config, new PostProcessor(config, sentiment))
          .forEach(
              outcome -> {
                counter.row(outcome.steps());
                if (outcome instanceof Dropped dropped) {
                  counter.drop(
                      dropped.reason(), source(key(dropped)), dropped.detail(), dropped.shown());
                } else if (outcome instanceof Candidate candidate) {
                  take(candidate, training, twoPasses, heldOut);
                }
              },
              bytes -> {
                if (System.nanoTime() - shown[0] > PROGRESS_NANOS) {
                  shown[0] = System.nanoTime();
                  progress.update(
                      bytes >> 10,
                      String.format(
                          Locale.ROOT, "%,d posts, %,d kept", counter.rows(), duplicates.size()));
                }
              });
    }
    progress.update(
        total >> 10,
        String.format(Locale.ROOT, "%,d posts, %,d kept", counter.rows(), duplicates.size()));
    progress.finish();
  }

  private static long key(PostProcessor.Outcome outcome) {
    return (long) outcome.row().file() << 40 | outcome.row().line();
  }

  private String source(long key) {
    return config.input().files().get((int) (key >>> 40)) + ":" + (key & (1L << 40) - 1);
  }

  private void take(
      Candidate candidate, BufferedWriter training, boolean twoPasses, BufferedWriter heldOut)
      throws IOException {
    int same = duplicates.findExact(candidate.letters());
    DropReason reason = DropReason.DUPLICATE;
    if (same < 0) {
      same = duplicates.findNear(candidate.signature());
      reason = DropReason.NEAR_DUPLICATE;
    }
    String source = source(key(candidate));
    if (same >= 0) {
      counter.drop(
          reason, source, "of " + source(sources[same]), shown(candidate.pair().completion()));
      return;
    }
    if (duplicates.size() == sources.length) {
      sources = Arrays.copyOf(sources, sources.length * 2);
    }
    sources[duplicates.size()] = key(candidate);
    duplicates.add(candidate.letters(), candidate.signature());
    boolean held = isHeldOut(candidate.group());
    ObjectNode example = Json.newObject();
    example.put("prompt", candidate.pair().prompt());
    example.put("completion", candidate.pair().completion());
    if (held) {
      for (long run : runs(candidate.pair().text())) {
        if (heldOutRuns.get(run) < 0) {
          heldOutRuns.put(run, 0);
        }
      }
      heldOut.write(Json.compact(example));
      heldOut.write('\n');
      counter.keep(true, candidate.words(), candidate.positive());
      return;
    }
    if (twoPasses) {
      // Counted in the second pass.
      training.write(key(candidate) + " " + candidate.words() + " " + candidate.positive() + " ");
      // A part of the text may be in the prompt.
      example.put(WHOLE_TEXT, candidate.pair().text());
    } else {
      counter.keep(false, candidate.words(), candidate.positive());
    }
    training.write(Json.compact(example));
    training.write('\n');
  }

  private static String shown(String completion) {
    String text = completion.strip();
    return text.codePointCount(0, text.length()) <= 160
        ? text
        : text.substring(0, text.offsetByCodePoints(0, 160)) + "…";
  }

  private boolean isHeldOut(long group) {
    if (config.output().heldOut() == null) {
      return false;
    }
    long hash = Hashes.mix(group ^ Hashes.mix(config.output().seed()));
    return (hash >>> 11) * 0x1p-53 < config.output().heldOutFraction();
  }

  /** Hashes of every run of `sharedWords` words; none where the text is shorter. */
  private List<Long> runs(String text) {
    int length = config.output().sharedWords();
    String[] words = text.strip().split(" ", -1);
    List<Long> runs = new ArrayList<>();
    for (int start = 0; length > 0 && start + length <= words.length; start++) {
      long hash = 0;
      for (int i = start; i < start + length; i++) {
        hash = Hashes.mix(hash * 31 + Hashes.of(TextCleaner.lettersOf(words[i])));
      }
      runs.add(hash);
    }
    return runs;
  }

  private void dropShared(Path from, Path to) throws IOException {
    progress.start("comparing with held-out examples", 0);
    long done = 0;
    try (BufferedReader in = Files.newBufferedReader(from, StandardCharsets.UTF_8);
        BufferedWriter out = Files.newBufferedWriter(to)) {
      for (String line = in.readLine(); line != null; line = in.readLine()) {
        String[] parts = line.split(" ", 4);
        ObjectNode example = Json.object(parts[3], from.toString());
        String text = example.remove(WHOLE_TEXT).textValue();
        boolean shared = false;
        for (long run : runs(text)) {
          shared = shared || heldOutRuns.get(run) >= 0;
        }
        if (shared) {
          counter.drop(
              DropReason.SHARED_WITH_HELD_OUT, source(Long.parseLong(parts[0])), "", shown(text));
        } else {
          counter.keep(false, Integer.parseInt(parts[1]), Double.parseDouble(parts[2]));
          out.write(Json.compact(example));
          out.write('\n');
        }
        if (++done % 1000 == 0) {
          progress.update(done, "");
        }
      }
    }
    progress.finish();
  }

  private void check() {
    String files =
        config.input().files().size() == 1 ? config.input().files().get(0).toString() : "the input";
    if (counter.rows() == 0) {
      throw new InputException(files + ": expected collected posts, found none");
    }
    long bad = counter.badRows();
    if (bad > counter.rows() * config.input().maxBadRows()) {
      throw new InputException(
          String.format(
              Locale.ROOT,
              "%s: %,d of %,d rows cannot be read, more than max_bad_rows (%s) allows%s",
              files,
              bad,
              counter.rows(),
              config.input().maxBadRows(),
              counter.firstBadRow().isEmpty() ? "" : "; for example " + counter.firstBadRow()));
    }
    if (counter.training() == 0) {
      DropReason most = counter.mostFrequent();
      throw new InputException(
          String.format(
              Locale.ROOT,
              "%s: of %,d rows no training example is left; most went as %s (%,d): %s",
              files,
              counter.rows(),
              most.key(),
              counter.dropped(most),
              most.rule()));
    }
    if (config.output().heldOut() != null && counter.heldOut() == 0) {
      throw new InputException(
          String.format(
              Locale.ROOT,
              "held_out: of %,d examples none was held out; raise held_out_fraction (%s), or leave held_out away",
              counter.kept(),
              config.output().heldOutFraction()));
    }
  }

  /** The lines that a run prints. */
  public static List<String> summary(RefineConfig config, RefineReport report) {
    List<String> lines = new ArrayList<>();
    lines.add(String.format(Locale.ROOT, "%,d rows read", report.rows()));
    report
        .drops()
        .forEach(
            (reason, count) -> {
              if (count > 0) {
                lines.add(
                    String.format(
                        Locale.ROOT, "  %,8d  %-20s  %s", count, reason.key(), reason.rule()));
              }
            });
    lines.add(
        String.format(
            Locale.ROOT,
            "%,d examples for training%s, %.1f words on average",
            report.training(),
            config.output().heldOut() == null
                ? ""
                : String.format(Locale.ROOT, ", %,d held out", report.heldOut()),
            report.words().mean()));
    lines.add(
        String.format(
            Locale.ROOT,
            "%s, %,.0f rows/s; peak memory %s",
            Text.duration(report.seconds()),
            report.rows() / report.seconds(),
            Text.bytes(report.peakBytes())));
    lines.add("result " + config.output().training());
    lines.add("report " + ReportFiles.beside(config.output().training(), ".report.md"));
    return lines;
  }
}
