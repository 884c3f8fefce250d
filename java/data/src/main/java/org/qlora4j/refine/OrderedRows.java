// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.refine;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.function.Consumer;
import org.qlora4j.rows.RawRow;
import org.qlora4j.rows.RowFormat;
import org.qlora4j.rows.RowParser;
import org.qlora4j.rows.RowReader;

/**
 * Reads files on the calling thread, processes their rows on all cores, and gives the outcomes to
 * the caller in the order of the rows. What is under way at a time is bounded.
 */
final class OrderedRows {
  private static final int BATCH_ROWS = 128;
  private static final int BATCH_BYTES = 1 << 20;
  private static final int BATCHES_A_THREAD = 4;

  private final RefineConfig config;
  private final PostProcessor processor;
  private final int threads;

  OrderedRows(RefineConfig config, PostProcessor processor) {
    this.config = config;
    this.processor = processor;
    this.threads =
        config.threads() > 0 ? config.threads() : Runtime.getRuntime().availableProcessors();
  }

  /** Takes outcomes in order. */
  interface Sink {
    void accept(PostProcessor.Outcome outcome) throws IOException;
  }

  /**
   * Runs over all files.
   *
   * @param read takes the bytes read so far, about once a batch
   */
  void forEach(Sink sink, Consumer<Long> read) throws IOException {
    ExecutorService pool =
        Executors.newFixedThreadPool(
            threads,
            task -> {
              Thread thread = new Thread(task, "refine");
              thread.setDaemon(true);
              return thread;
            });
    try {
      Deque<Future<List<PostProcessor.Outcome>>> underWay = new ArrayDeque<>();
      long before = 0;
      for (int file = 0; file < config.input().files().size(); file++) {
        Path path = config.input().files().get(file);
        RowFormat format = config.input().format();
        try (RowReader reader =
            new RowReader(
                path,
                file,
                format == null ? RowFormat.of(path) : format,
                config.input().maxRowBytes())) {
          check(path, reader.parser());
          for (List<RawRow> batch = batch(reader); !batch.isEmpty(); batch = batch(reader)) {
            if (underWay.size() == threads * BATCHES_A_THREAD) {
              take(underWay.removeFirst(), sink);
            }
            List<RawRow> rows = batch;
            RowParser parser = reader.parser();
            underWay.addLast(pool.submit(() -> processed(rows, parser)));
            read.accept(before + reader.bytesRead());
          }
          before += reader.bytesRead();
        }
      }
      while (!underWay.isEmpty()) {
        take(underWay.removeFirst(), sink);
      }
    } finally {
      pool.shutdownNow();
    }
  }

  private void check(Path path, RowParser parser) {
    RefineConfig.Input input = config.input();
    parser.require(path.toString(), input.textField());
    for (String field : fields(input)) {
      parser.require(path.toString(), field);
    }
  }

  private static List<String> fields(RefineConfig.Input input) {
    List<String> fields = new ArrayList<>();
    String title = input.titleField();
    String keywords = input.keywordsField();
    String group = input.groupField();
    if (title != null) {
      fields.add(title);
    }
    if (keywords != null) {
      fields.add(keywords);
    }
    if (group != null) {
      fields.add(group);
    }
    return fields;
  }

  private static List<RawRow> batch(RowReader reader) {
    List<RawRow> rows = new ArrayList<>(BATCH_ROWS);
    long bytes = 0;
    while (rows.size() < BATCH_ROWS && bytes < BATCH_BYTES) {
      RawRow row = reader.next();
      if (row == null) {
        break;
      }
      rows.add(row);
      bytes += row.bytes().length;
    }
    return rows;
  }

  private List<PostProcessor.Outcome> processed(List<RawRow> rows, RowParser parser) {
    List<PostProcessor.Outcome> outcomes = new ArrayList<>(rows.size());
    for (RawRow row : rows) {
      outcomes.add(processor.process(row, parser));
    }
    return outcomes;
  }

  private static void take(Future<List<PostProcessor.Outcome>> future, Sink sink)
      throws IOException {
    try {
      for (PostProcessor.Outcome outcome : future.get()) {
        sink.accept(outcome);
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IOException("interrupted", e);
    } catch (ExecutionException e) {
      if (e.getCause() instanceof RuntimeException cause) {
        throw cause;
      }
      if (e.getCause() instanceof Error cause) {
        throw cause;
      }
      throw new IllegalStateException("a row cannot be processed", e.getCause());
    }
  }
}
