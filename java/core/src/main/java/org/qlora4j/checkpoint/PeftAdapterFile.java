// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.lora.LoraConfig;

/**
 * A LoRA adapter directory in PEFT's format: {@code adapter_config.json} and {@code
 * adapter_model.safetensors}, whose keys are {@code base_model.model.<module path>.lora_A.weight}
 * [rank, in] and {@code .lora_B.weight} [out, rank], with DoRA also {@code .lora_magnitude_vector}
 * [out]. Tensors of modules_to_save and trained biases have their names in the base after that
 * prefix. So do weights of the base's embedding and head, which PEFT saves along where the head is
 * adapted ({@code save_embedding_layers}) and loads over the base's; an adapted head's is {@code
 * <module path>.base_layer.weight}.
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
  private static final String MAGNITUDE = ".lora_magnitude_vector";

  private static final String WEIGHT = ".weight";

  /** Where an adapted linear keeps its bias. */
  private static final String BASE_BIAS = ".base_layer.bias";

  /** Where an adapted linear keeps its weight. */
  private static final String BASE_WEIGHT = ".base_layer.weight";

  /**
   * With bias: all, PEFT saves the bias of a module in modules_to_save twice more, under the names
   * its wrapper has for the frozen module and for the copy; it reads neither.
   */
  private static final List<String> REPEATED = List.of(".original_module.", ".modules_to_save.");

  /**
   * The two matrices of one module, read from a file.
   *
   * @param module path in the base model, for example "model.layers.0.self_attn.q_proj"
   * @param a [rank, in]
   * @param b [out, rank]
   * @param magnitude [out], with DoRA only
   */
  public record Pair(
      String module, TensorSource a, TensorSource b, @Nullable TensorSource magnitude) {
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
  private final Map<String, TensorSource> copies;
  private final Map<String, TensorSource> saved;

  private PeftAdapterFile(
      PeftAdapterConfig config,
      SafetensorsFile file,
      Map<String, Pair> pairs,
      Map<String, TensorSource> copies,
      Map<String, TensorSource> saved) {
    this.config = config;
    this.file = file;
    this.pairs = Collections.unmodifiableMap(pairs);
    this.copies = Collections.unmodifiableMap(copies);
    this.saved = Collections.unmodifiableMap(saved);
  }

  /**
   * A tensor to be written.
   *
   * @param name in the file
   * @param data writes its f32 values, in pieces if it likes
   */
  public record Entry(String name, long[] shape, Data data) {}

  /** Values of a tensor. */
  public interface Data {
    /** Writes all of them under this name. */
    void write(SafetensorsWriter writer, String name);
  }

  /** Name of the tensor [rank, in] of a module. */
  public static String aName(String module) {
    return PREFIX + module + A;
  }

  /** Name of the tensor [out, rank] of a module. */
  public static String bName(String module) {
    return PREFIX + module + B;
  }

  /** Name of the tensor [out] of a module's magnitudes. */
  public static String magnitudeName(String module) {
    return PREFIX + module + MAGNITUDE;
  }

  /** Name of a module's trained bias; an adapted linear keeps its own one level down. */
  public static String biasName(String module, boolean adapted) {
    return PREFIX + module + (adapted ? BASE_BIAS : ".bias");
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
      Map<String, TensorSource> copies = new TreeMap<>();
      Map<String, TensorSource> saved = new TreeMap<>();
      Map<String, Pair> pairs = pairs(config, file, copies, saved);
      PeftAdapterFile adapter = new PeftAdapterFile(config, file, pairs, copies, saved);
      opened = true;
      return adapter;
    } finally {
      if (!opened) {
        file.close();
      }
    }
  }

  /**
   * The pairs; what else is trained goes to {@code copies}, what was saved along to {@code saved},
   * by its name in the base.
   */
  private static Map<String, Pair> pairs(
      PeftAdapterConfig config,
      SafetensorsFile file,
      Map<String, TensorSource> copies,
      Map<String, TensorSource> saved) {
    boolean dora = config.lora().dora();
    Map<String, Pair> pairs = new TreeMap<>();
    for (String key : file.names()) {
      String path = key.startsWith(PREFIX) ? key.substring(PREFIX.length()) : "";
      if (path.length() > A.length() && path.endsWith(A)) {
        String module = path.substring(0, path.length() - A.length());
        pairs.put(module, pair(config, file, module));
      } else if (path.length() > B.length() && path.endsWith(B)) {
        file.tensor(aName(path.substring(0, path.length() - B.length())));
      } else if (dora && path.endsWith(MAGNITUDE)) {
        file.tensor(aName(path.substring(0, path.length() - MAGNITUDE.length())));
      } else if (isCopy(config.lora(), path)) {
        if (REPEATED.stream().noneMatch(path::contains)) {
          TensorSource tensor = file.tensor(key);
          checkType(tensor);
          copies.put(path.replace(BASE_BIAS, ".bias"), tensor);
        }
      } else if (isSaved(file, path)) {
        TensorSource tensor = file.tensor(key);
        checkType(tensor);
        saved.put(path.replace(BASE_WEIGHT, WEIGHT), tensor);
      } else {
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
                + (dora ? " and " + MAGNITUDE : "")
                + ", what modules_to_save and bias of "
                + CONFIG_FILE
                + " name, and weights of the embedding and the head; other trained tensors are not supported");
      }
    }
    if (pairs.isEmpty()) {
      throw new InputException(file.file() + ": expected LoRA matrices, found no tensor");
    }
    return pairs;
  }

  private static Pair pair(PeftAdapterConfig config, SafetensorsFile file, String module) {
    TensorSource a = file.tensor(aName(module));
    TensorSource b = file.tensor(bName(module));
    int rank = config.lora().rank(module);
    checkShape(a, rank, 0);
    checkShape(b, rank, 1);
    TensorSource magnitude = null;
    if (config.lora().dora()) {
      magnitude = file.tensor(magnitudeName(module));
      checkType(magnitude);
      if (magnitude.elements() != b.shape()[0]) {
        throw new InputException(
            magnitude.file()
                + ": tensor "
                + Text.quote(magnitude.name())
                + ": expected "
                + b.shape()[0]
                + " magnitudes, one for each row of lora_B, found "
                + Arrays.toString(magnitude.shape()));
      }
    }
    return new Pair(module, a, b, magnitude);
  }

  private static boolean isCopy(LoraConfig lora, String path) {
    int dot = path.lastIndexOf('.');
    if (dot < 1 || path.contains(".lora_")) {
      return false;
    }
    String module = path.substring(0, dot);
    boolean bias = path.endsWith(".bias") && lora.bias() != LoraConfig.Bias.NONE;
    boolean saved = !lora.modulesToSave().isEmpty() && lora.saves(module);
    return bias || (saved && (path.endsWith(".weight") || path.endsWith(".bias")));
  }

  /**
   * Whether this is a weight of the embedding or the head: a matrix outside of the blocks, which
   * have their number in their paths.
   */
  private static boolean isSaved(SafetensorsFile file, String path) {
    if (!path.endsWith(WEIGHT)
        || path.contains(".lora_")
        || REPEATED.stream().anyMatch(path::contains)
        || path.chars().anyMatch(Character::isDigit)
        || file.tensor(PREFIX + path).shape().length != 2) {
      return false;
    }
    boolean ofAdapted = path.endsWith(BASE_WEIGHT);
    String end = ofAdapted ? BASE_WEIGHT : WEIGHT;
    return (file.find(aName(path.substring(0, path.length() - end.length()))) != null) == ofAdapted;
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
    checkType(tensor);
  }

  private static void checkType(TensorSource tensor) {
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

  /**
   * Tensors of modules that are trained in full, and trained biases, by their names in the base.
   */
  public Map<String, TensorSource> copies() {
    return copies;
  }

  /**
   * Weights of the embedding and the head that were saved along and not trained, by their names in
   * the base. PEFT loads them over the base's, which they mostly equal; where the base has one
   * tensor for both, it is one still.
   */
  public Map<String, TensorSource> saved() {
    return saved;
  }

  /**
   * Identifies the adapter: its tensors as {@link ModelCheckpoint#fingerprint}, and its options.
   */
  public String fingerprint() {
    return ModelCheckpoint.fingerprint(file.tensors().values()) + " " + config.lora();
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
    List<Entry> entries = new ArrayList<>();
    for (Matrices m : modules) {
      long rank = config.lora().rank(m.module());
      entries.add(
          new Entry(
              aName(m.module()),
              new long[] {rank, m.in()},
              (writer, name) -> writer.write(name, m.a().get())));
      entries.add(
          new Entry(
              bName(m.module()),
              new long[] {m.out(), rank},
              (writer, name) -> writer.write(name, m.b().get())));
    }
    write(directory, config, entries);
  }

  /** As {@link #write(Path, PeftAdapterConfig, Collection)}, with any tensors. */
  public static void write(Path directory, PeftAdapterConfig config, List<Entry> entries) {
    try (SafetensorsWriter writer = SafetensorsWriter.create(directory.resolve(WEIGHTS_FILE))) {
      for (Entry entry : entries) {
        writer.declare(entry.name(), StoredType.F32, entry.shape());
      }
      for (Entry entry : entries) {
        entry.data().write(writer, entry.name());
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
