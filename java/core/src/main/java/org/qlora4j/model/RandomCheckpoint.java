// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.ShardPlan;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.common.AtomicOutput;
import org.qlora4j.common.DiskSpace;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.FloatBits;
import org.qlora4j.model.WeightNames.Module;
import org.qlora4j.model.WeightNames.Part;
import org.qlora4j.quant.FloatEncoding;

/**
 * Writes a checkpoint of random weights: what measuring memory and speed needs of a shape whose
 * weights are not at hand.
 *
 * <p>Weights are close to normal (the sum of four uniform numbers) with the config's
 * initializer_range as standard deviation; the two linears that write into the residual stream are
 * smaller by sqrt(2 layers), so that a deep stack's activations stay as large as a shallow one's.
 * Norms scale nothing, biases are zero. An element depends only on the seed, its tensor's name and
 * its place, so neither threads nor shards change it.
 */
public final class RandomCheckpoint {
  private static final int CHUNK_BYTES = 8 << 20;
  private static final long GOLDEN = 0x9E3779B97F4A7C15L;

  private final ModelConfig config;
  private final StoredType type;
  private final long seed;

  /**
   * @param config the shape
   * @param type F32, BF16 or F16
   */
  public RandomCheckpoint(ModelConfig config, StoredType type, long seed) {
    if (type != StoredType.F32 && type != StoredType.BF16 && type != StoredType.F16) {
      throw new IllegalArgumentException("a model is stored in F32, BF16 or F16, not " + type);
    }
    this.config = config;
    this.type = type;
    this.seed = seed;
  }

  /** What a tensor holds. */
  private record Values(double constant, double deviation) {}

  /**
   * Writes the model directory, which appears whole or not at all. Memory holds a few chunks of 8
   * MiB, whatever the size of the model.
   *
   * @param configFile the config.json to copy; its dtype is set to what is written
   * @param tokenizer a model directory whose tokenizer files are copied, or null
   * @param shardBytes most bytes in a file
   * @return the files
   */
  public ShardPlan write(
      Path configFile,
      @Nullable Path tokenizer,
      Path target,
      long shardBytes,
      int threads,
      Progress progress) {
    Map<String, Values> values = new HashMap<>();
    List<List<ShardPlan.Entry>> groups = new ArrayList<>();
    for (Module module : WeightNames.of(config).modules()) {
      groups.add(List.of(new ShardPlan.Entry(module.weight(), type, module.shape())));
      values.put(module.weight(), weight(module));
      if (module.hasBias()) {
        groups.add(List.of(ShardPlan.Entry.of(module.bias(), type, module.rows())));
        values.put(module.bias(), new Values(0, 0));
      }
    }
    ShardPlan plan = ShardPlan.of(groups, shardBytes);
    DiskSpace.require(target, plan.bytes());
    ExecutorService workers =
        Executors.newFixedThreadPool(
            threads,
            runnable -> {
              Thread thread = new Thread(runnable, "random weights");
              thread.setDaemon(true);
              return thread;
            });
    try (AtomicOutput out = AtomicOutput.directory(target)) {
      progress.start("writing", Math.max(1, plan.bytes() >> 20));
      Chunks chunks = new Chunks(workers, threads, progress);
      for (ShardPlan.Shard shard : plan.shards()) {
        try (SafetensorsWriter writer = shard.open(out.path())) {
          for (ShardPlan.Entry entry : shard.entries()) {
            chunks.write(writer, entry, values.getOrDefault(entry.name(), new Values(0, 0)));
          }
          writer.commit();
        }
      }
      plan.writeIndex(out.path());
      if (tokenizer != null) {
        ModelCheckpoint.copyTokenizer(tokenizer, out.path());
      }
      ObjectNode json = Json.readObject(configFile, 16 << 20);
      json.put(
          json.has("dtype") ? "dtype" : "torch_dtype",
          FloatEncoding.configName(Objects.requireNonNull(type.dtype())));
      json.remove("quantization_config"); // of a model whose shape it is; these weights are dense
      Files.writeString(out.path().resolve("config.json"), Json.pretty(json));
      progress.finish();
      out.commit();
      return plan;
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + target, e);
    } finally {
      workers.shutdownNow();
    }
  }

  private Values weight(Module module) {
    if (module.shape().size() == 1) {
      return new Values(config.norm().neutralWeight(), 0);
    }
    boolean residual = module.part() == Part.ATTENTION_OUTPUT || module.part() == Part.DOWN;
    return new Values(
        0, config.initializerRange() / (residual ? Math.sqrt(2.0 * config.layers()) : 1));
  }

  /** Draws chunks ahead on all threads while the oldest is written. */
  private final class Chunks {
    private final ExecutorService workers;
    private final Progress progress;
    private final Deque<ByteBuffer> free = new ArrayDeque<>();
    private long written = 0;

    Chunks(ExecutorService workers, int threads, Progress progress) {
      this.workers = workers;
      this.progress = progress;
      for (int i = 0; i < 2 * threads; i++) {
        free.add(ByteBuffer.allocateDirect(CHUNK_BYTES).order(ByteOrder.LITTLE_ENDIAN));
      }
    }

    void write(SafetensorsWriter writer, ShardPlan.Entry entry, Values values) {
      int elementBytes = type.bits() / 8;
      long perChunk = CHUNK_BYTES / elementBytes;
      long key = mix(seed ^ entry.name().hashCode() * GOLDEN);
      Deque<Future<ByteBuffer>> drawn = new ArrayDeque<>();
      for (long first = 0; first < entry.elements() || !drawn.isEmpty(); ) {
        ByteBuffer buffer = first < entry.elements() ? free.poll() : null;
        if (buffer != null) {
          long start = first;
          int count = (int) Math.min(perChunk, entry.elements() - first);
          drawn.add(workers.submit(() -> fill(buffer, key, start, count, values)));
          first += count;
          continue;
        }
        ByteBuffer oldest = take(drawn.remove());
        written += oldest.remaining();
        writer.write(entry.name(), oldest);
        free.add(oldest);
        progress.update(written >> 20, entry.name());
      }
    }

    private ByteBuffer take(Future<ByteBuffer> chunk) {
      try {
        return chunk.get();
      } catch (ExecutionException e) {
        throw new IllegalStateException("drawing weights failed", e.getCause());
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
        throw new InputException("interrupted", e);
      }
    }
  }

  private ByteBuffer fill(ByteBuffer buffer, long key, long first, int count, Values values) {
    buffer.clear();
    // Four uniform numbers of 16 bits: mean 4 * 32767.5, variance 4 * (2^32 - 1) / 12.
    float scale = (float) (values.deviation() / Math.sqrt((0x1p32 - 1) / 3));
    boolean random = values.deviation() > 0;
    float constant = (float) values.constant();
    for (int i = 0; i < count; i++) {
      float value = constant;
      if (random) {
        long bits = mix(key + (first + i) * GOLDEN);
        int sum =
            (int) (bits & 0xffff)
                + (int) (bits >>> 16 & 0xffff)
                + (int) (bits >>> 32 & 0xffff)
                + (int) (bits >>> 48);
        value = (sum - 131070) * scale;
      }
      switch (type) {
        case BF16 -> buffer.putShort(2 * i, FloatBits.toBf16(value));
        case F16 -> buffer.putShort(2 * i, FloatBits.toF16(value));
        default -> buffer.putFloat(4 * i, value);
      }
    }
    return buffer.limit(count * (type.bits() / 8));
  }

  /** SplitMix64's finalizer. */
  private static long mix(long z) {
    long a = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
    long b = (a ^ (a >>> 27)) * 0x94D049BB133111EBL;
    return b ^ (b >>> 31);
  }
}
