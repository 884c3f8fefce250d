// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;

/**
 * A LoRA adapter directory in PEFT's format: {@code adapter_config.json} and {@code
 * adapter_model.safetensors}, whose keys are {@code base_model.model.<module path>.lora_A.weight}
 * [rank, in] and {@code .lora_B.weight} [out, rank].
 */
public final class PeftAdapterFile implements AutoCloseable {
  /** The options' file. */
  public static final String CONFIG_FILE = "adapter_config.json";

  /** The tensors' file. */
  public static final String WEIGHTS_FILE = "adapter_model.safetensors";

  /** What PEFT puts before a module path in the names of an adapter's tensors. */
  public static final String PREFIX = "base_model.model.";

  private static final String A = ".lora_A.weight";
  private static final String B = ".lora_B.weight";

  /**
   * The two matrices of one module, read from a file.
   *
   * @param module path in the base model, for example "model.layers.0.self_attn.q_proj"
   * @param a [rank, in]
   * @param b [out, rank]
   */
  public record Pair(String module, TensorSource a, TensorSource b) {
    /** In features. */
    public long in() {
      return a.shape()[1];
    }

    /** Out features. */
    public long out() {
      return b.shape()[0];
    }
  }

  /**
   * The two matrices of one module, to be written. The suppliers are called one after the other, so
   * that only one matrix is on the heap at a time.
   *
   * @param module path in the base model
   * @param a [rank, in], row-major f32
   * @param b [out, rank], row-major f32
   */
  public record Matrices(
      String module, long in, long out, Supplier<float[]> a, Supplier<float[]> b) {}

  private final PeftAdapterConfig config;
  private final SafetensorsFile file;
  private final Map<String, Pair> pairs;

  private PeftAdapterFile(PeftAdapterConfig config, SafetensorsFile file, Map<String, Pair> pairs) {
    this.config = config;
    this.file = file;
    this.pairs = Collections.unmodifiableMap(pairs);
  }

  /** Name of the tensor [rank, in] of a module. */
  public static String aName(String module) {
    return PREFIX + module + A;
  }

  /** Name of the tensor [out, rank] of a module. */
  public static String bName(String module) {
    return PREFIX + module + B;
  }

  /** Opens an adapter directory; everything but the tensors' data is read and checked. */
  public static PeftAdapterFile open(Path directory) {
    if (!Files.isDirectory(directory)) {
      throw new InputException("no such adapter directory: " + directory);
    }
    for (String name : new String[] {CONFIG_FILE, WEIGHTS_FILE}) {
      if (!Files.isRegularFile(directory.resolve(name))) {
        throw new InputException(
            directory + ": expected a PEFT adapter with " + name + ", found no such file");
      }
    }
    PeftAdapterConfig config = PeftAdapterConfig.read(directory.resolve(CONFIG_FILE));
    SafetensorsFile file = SafetensorsFile.open(directory.resolve(WEIGHTS_FILE));
    boolean opened = false;
    try {
      PeftAdapterFile adapter = new PeftAdapterFile(config, file, pairs(config, file));
      opened = true;
      return adapter;
    } finally {
      if (!opened) {
        file.close();
      }
    }
  }

  private static Map<String, Pair> pairs(PeftAdapterConfig config, SafetensorsFile file) {
    Map<String, Pair> pairs = new TreeMap<>();
    for (String key : file.names()) {
      boolean isA = key.endsWith(A);
      if (!key.startsWith(PREFIX)
          || (!isA && !key.endsWith(B))
          || key.length() <= PREFIX.length() + A.length()) {
        throw new InputException(
            file.file()
                + ": tensor "
                + Text.quote(key)
                + ": expected only "
                + PREFIX
                + "<module>"
                + A
                + " and "
                + B
                + "; other trained tensors are not supported");
      }
      String module = key.substring(PREFIX.length(), key.length() - A.length());
      TensorSource a = file.tensor(aName(module));
      TensorSource b = file.tensor(bName(module));
      if (isA) {
        checkShape(a, config.rank(), 0);
        checkShape(b, config.rank(), 1);
        pairs.put(module, new Pair(module, a, b));
      }
    }
    if (pairs.isEmpty()) {
      throw new InputException(file.file() + ": expected LoRA matrices, found no tensor");
    }
    return pairs;
  }

  private static void checkShape(TensorSource tensor, int rank, int axis) {
    long[] shape = tensor.shape();
    if (shape.length != 2 || shape[axis] != rank) {
      throw new InputException(
          tensor.file()
              + ": tensor "
              + Text.quote(tensor.name())
              + ": expected "
              + (axis == 0 ? "[" + rank + ", in]" : "[out, " + rank + "]")
              + " for r = "
              + rank
              + " of "
              + CONFIG_FILE
              + ", found "
              + Arrays.toString(shape));
    }
    switch (tensor.storedType()) {
      case F32, BF16, F16 -> {}
      default ->
          throw new InputException(
              tensor.file()
                  + ": tensor "
                  + Text.quote(tensor.name())
                  + ": expected F32, BF16 or F16, found "
                  + tensor.storedType());
    }
  }

  /** The options. */
  public PeftAdapterConfig config() {
    return config;
  }

  /** The matrices by module path, sorted. */
  public Map<String, Pair> pairs() {
    return pairs;
  }

  /** The matrices of one module, or null where it is not adapted. */
  public @Nullable Pair find(String module) {
    return pairs.get(module);
  }

  @Override
  public void close() {
    file.close();
  }

  /**
   * Writes both files into `directory`, which must exist; a caller that wants the directory to
   * appear whole passes {@link org.qlora4j.common.AtomicOutput#path()}. Tensors are F32.
   */
  public static void write(Path directory, PeftAdapterConfig config, Collection<Matrices> modules) {
    try (SafetensorsWriter writer = SafetensorsWriter.create(directory.resolve(WEIGHTS_FILE))) {
      for (Matrices m : modules) {
        writer.declare(aName(m.module()), StoredType.F32, config.rank(), m.in());
        writer.declare(bName(m.module()), StoredType.F32, m.out(), config.rank());
      }
      for (Matrices m : modules) {
        writer.write(aName(m.module()), m.a().get());
        writer.write(bName(m.module()), m.b().get());
      }
      writer.commit();
    }
    try {
      Files.writeString(directory.resolve(CONFIG_FILE), config.toJson());
    } catch (IOException e) {
      throw new UncheckedIOException("cannot write " + directory.resolve(CONFIG_FILE), e);
    }
  }
}
