// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import static org.junit.jupiter.api.Assertions.fail;

import com.sun.management.ThreadMXBean;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;

/**
 * Gives bent inputs to code that reads what is not trusted, for {@code -Dqlora4j.fuzz.seconds=N}
 * seconds a target (2 without it). The code may take an input or refuse it by an {@link
 * InputException} of one line. Anything else it throws, an input that takes longer than {@value
 * #MOST_SECONDS} seconds, and more memory than the limit is a failure, and the input is kept in
 * {@code target/fuzz}.
 *
 * <p>Input number n depends on {@code -Dqlora4j.fuzz.seed=N} and n only, both of which are printed.
 */
public final class Fuzz {
  private static final double SECONDS =
      Double.parseDouble(System.getProperty("qlora4j.fuzz.seconds", "2"));
  private static final long SEED = Long.getLong("qlora4j.fuzz.seed", 20261127);
  private static final int MOST_SECONDS = 20;
  private static final int MOST_CHARACTERS = 4096;

  private final String name;
  private final long baseBytes;
  private final long bytesPerByte;

  private Fuzz(String name, long baseBytes, long bytesPerByte) {
    this.name = name;
    this.baseBytes = baseBytes;
    this.bytesPerByte = bytesPerByte;
  }

  /** What reads an input. */
  public interface Target {
    /** Takes the input or throws an InputException. */
    void read(byte[] input) throws IOException;
  }

  /**
   * A target that may allocate {@code baseBytes}, and {@code bytesPerByte} for every byte of its
   * input, in all and not at once.
   */
  public static Fuzz of(String name, long baseBytes, long bytesPerByte) {
    return new Fuzz(name, baseBytes, bytesPerByte);
  }

  /** Runs the target over the seeds as they are, which it must take, and then over bent ones. */
  public void run(List<byte[]> seeds, Target target) {
    ExecutorService reader = reader();
    try {
      for (byte[] seed : seeds) {
        String refused = read(reader, seed, target, -1);
        if (refused != null) {
          fail(name + ": a valid input was refused: " + refused);
        }
      }
      long end = System.nanoTime() + (long) (SECONDS * 1e9);
      long inputs = 0;
      long refused = 0;
      while (System.nanoTime() < end) {
        Random random = new Random(SEED ^ (inputs * 0x9E3779B97F4A7C15L));
        byte[] input = new Mutator(random, seeds).next();
        refused += read(reader, input, target, inputs) == null ? 0 : 1;
        inputs++;
      }
      System.out.println(
          "fuzz " + name + ": " + inputs + " inputs, " + refused + " refused, seed " + SEED);
    } finally {
      reader.shutdownNow();
    }
  }

  /** Reads one input, which may be refused, within the bounds. */
  public void bounded(byte[] input, Target target) {
    ExecutorService reader = reader();
    try {
      read(reader, input, target, 0);
    } finally {
      reader.shutdownNow();
    }
  }

  /** A thread with a stack as the main thread of a program has it at least. */
  private ExecutorService reader() {
    return Executors.newSingleThreadExecutor(
        task -> {
          Thread thread = new Thread(null, task, "fuzz " + name, 1 << 20);
          thread.setDaemon(true);
          return thread;
        });
  }

  /** The refusal's message, or null where the input was taken. */
  private @Nullable String read(ExecutorService reader, byte[] input, Target target, long number) {
    Future<Outcome> running = reader.submit(() -> outcome(input, target));
    Outcome outcome;
    try {
      outcome = running.get(MOST_SECONDS, TimeUnit.SECONDS);
    } catch (TimeoutException e) {
      throw failure(input, number, "takes longer than " + MOST_SECONDS + " s" + stack(), e);
    } catch (ExecutionException e) {
      throw failure(input, number, "failed with " + e.getCause(), e.getCause());
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new IllegalStateException(e);
    }
    long most = baseBytes + bytesPerByte * input.length;
    if (outcome.allocated() > most) {
      throw failure(
          input, number, "allocated " + outcome.allocated() + " bytes, allowed are " + most, null);
    }
    String message = outcome.refusal();
    if (message != null && (message.lines().count() != 1 || message.length() > MOST_CHARACTERS)) {
      throw failure(input, number, "is refused by more than a line: " + message, null);
    }
    return message;
  }

  private record Outcome(@Nullable String refusal, long allocated) {}

  private static Outcome outcome(byte[] input, Target target) throws IOException {
    ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
    long before = threads.getCurrentThreadAllocatedBytes();
    String refusal = null;
    try {
      target.read(input);
    } catch (InputException e) {
      refusal = String.valueOf(e.getMessage());
    }
    return new Outcome(refusal, threads.getCurrentThreadAllocatedBytes() - before);
  }

  private AssertionError failure(
      byte[] input, long number, String what, @Nullable Throwable cause) {
    Path kept = Path.of("target", "fuzz", name.replace(' ', '-') + "-" + SEED + "-" + number);
    try {
      Files.createDirectories(kept.getParent());
      Files.write(kept, input);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return new AssertionError(
        "fuzz " + name + ", seed " + SEED + ": input " + number + " " + what + "; kept in " + kept,
        cause);
  }

  private String stack() {
    return Thread.getAllStackTraces().entrySet().stream()
        .filter(thread -> thread.getKey().getName().equals("fuzz " + name))
        .findFirst()
        .map(thread -> ", at " + Arrays.toString(Arrays.copyOf(thread.getValue(), 12)))
        .orElse("");
  }
}
