// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.DiskSpace;
import org.qlora4j.common.Progress;

/**
 * Writes a model directory that is made from another one, tensor by tensor. It appears whole or not
 * at all. Finished files of an interrupted run for the same work are kept, beside the target under
 * a hidden name, and used by the next one after their checksums were compared.
 */
public final class ShardedOutput {
  private ShardedOutput() {}

  /** What the files hold. */
  public interface Content {
    /**
     * The tensor that an entry of the plan is made from, or null for one that is written with
     * another.
     */
    @Nullable TensorSource source(String name);

    /** Writes what is made from a tensor: all entries that no other source has. */
    void write(SafetensorsWriter writer, TensorSource source);

    /** Writes the other files of the model. */
    void writeCompanions(Path directory) throws IOException;
  }

  /**
   * What was written.
   *
   * @param files number of files with weights
   * @param resumedFiles how many of them an interrupted run had finished
   */
  public record Result(int files, int resumedFiles) {}

  /**
   * Writes the directory.
   *
   * @param plan entries in the files
   * @param work a text that is the same only for the same result, the files' names and sizes apart
   * @param task for the progress, which counts MiB of sources
   */
  public static Result write(
      Path target, ShardPlan plan, String work, String task, Content content, Progress progress) {
    try (AtomicOutput out = AtomicOutput.resumable(target)) {
      UnfinishedShards shards = UnfinishedShards.open(out.path(), task + " " + work + files(plan));
      if (shards.count() > 0) {
        out.keep();
        progress.message(
            "going on with an interrupted run: " + shards.count() + " files are finished");
      }
      long total = 0;
      for (ShardPlan.Shard shard : plan.shards()) {
        total += sources(shard, content).stream().mapToLong(TensorSource::bytes).sum();
      }
      progress.start(task, Math.max(1, total >> 20));
      long done = 0;
      int resumed = 0;
      for (ShardPlan.Shard shard : plan.shards()) {
        List<TensorSource> sources = sources(shard, content);
        if (shards.isFinished(shard.file())) {
          resumed++;
          done += sources.stream().mapToLong(TensorSource::bytes).sum();
          progress.update(done >> 20, shard.file());
          continue;
        }
        DiskSpace.require(target, shard.bytes());
        try (SafetensorsWriter writer = shard.open(out.path())) {
          for (TensorSource source : sources) {
            progress.update(done >> 20, source.name());
            content.write(writer, source);
            done += source.bytes();
          }
          writer.commit();
        }
        if (plan.shards().size() > 1) {
          shards.finished(shard.file());
          out.keep();
        }
      }
      progress.update(total >> 20, "done");
      progress.finish();
      plan.writeIndex(out.path());
      content.writeCompanions(out.path());
      shards.complete();
      out.commit();
      return new Result(plan.shards().size(), resumed);
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + target, e);
    }
  }

  private static String files(ShardPlan plan) {
    List<String> files = new ArrayList<>();
    plan.shards().forEach(shard -> files.add(shard.file() + ":" + shard.bytes()));
    return " " + files;
  }

  private static List<TensorSource> sources(ShardPlan.Shard shard, Content content) {
    List<TensorSource> sources = new ArrayList<>();
    for (ShardPlan.Entry entry : shard.entries()) {
      TensorSource source = content.source(entry.name());
      if (source != null) {
        sources.add(source);
      }
    }
    return sources;
  }
}
