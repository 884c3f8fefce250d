// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.merge;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collections;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterConfig;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Text;
import org.qlora4j.lora.LoraConfig;

/**
 * The tensors of a PEFT adapter that is to be merged: LoRA and rsLoRA, and DoRA with its magnitude
 * vectors. A file of the adapter is not trusted; every shape is checked before it is used.
 */
final class AdapterWeights implements AutoCloseable {
  private static final String A = ".lora_A.weight";
  private static final String B = ".lora_B.weight";
  private static final String MAGNITUDE = ".lora_magnitude_vector";
  private static final Set<String> HARMLESS_INIT = Set.of("gaussian", "eva", "orthogonal");
  private static final long MAX_CONFIG_BYTES = 16 << 20;

  /**
   * What the adapter adds to one weight.
   *
   * @param scaling s of docs/lora.md
   * @param a [rank, in]
   * @param b [out, rank]
   * @param magnitude [out] with DoRA, else null
   */
  record Module(
      String path,
      float scaling,
      TensorSource a,
      TensorSource b,
      @Nullable TensorSource magnitude) {
    long in() {
      return a.shape()[1];
    }

    long out() {
      return b.shape()[0];
    }

    int rank() {
      return (int) a.shape()[0];
    }
  }

  private final SafetensorsFile file;
  private final LoraConfig lora;
  private final Map<String, Module> modules;

  private AdapterWeights(SafetensorsFile file, LoraConfig lora, Map<String, Module> modules) {
    this.file = file;
    this.lora = lora;
    this.modules = Collections.unmodifiableMap(modules);
  }

  /** Opens an adapter's directory. */
  static AdapterWeights open(Path directory) {
    if (!Files.isDirectory(directory)) {
      throw new InputException("no such adapter directory: " + directory);
    }
    for (String name : new String[] {PeftAdapterFile.CONFIG_FILE, PeftAdapterFile.WEIGHTS_FILE}) {
      if (!Files.isRegularFile(directory.resolve(name))) {
        throw new InputException(
            directory + ": expected a PEFT adapter with " + name + ", found no such file");
      }
    }
    Path configFile = directory.resolve(PeftAdapterFile.CONFIG_FILE);
    ObjectNode json = Json.readObject(configFile, MAX_CONFIG_BYTES);
    checkInit(configFile, json.path("init_lora_weights"));
    LoraConfig lora = PeftAdapterConfig.parse(json, configFile).lora();
    SafetensorsFile file = SafetensorsFile.open(directory.resolve(PeftAdapterFile.WEIGHTS_FILE));
    boolean opened = false;
    try {
      AdapterWeights weights = new AdapterWeights(file, lora, modules(file, lora));
      opened = true;
      return weights;
    } finally {
      if (!opened) {
        file.close();
      }
    }
  }

  /** Refuses initialisations that change the base. */
  private static void checkInit(Path file, JsonNode init) {
    if (init.isTextual() && !HARMLESS_INIT.contains(init.textValue())) {
      throw new InputException(
          file
              + ": init_lora_weights: expected one that leaves the base as it is, found "
              + Text.quote(init.textValue())
              + "; such an adapter cannot be merged");
    }
  }

  private static Map<String, Module> modules(SafetensorsFile file, LoraConfig lora) {
    boolean dora = lora.dora();
    Map<String, Module> modules = new TreeMap<>();
    for (String key : file.names()) {
      String path = modulePath(key, A);
      if (path == null) {
        String other = modulePath(key, B);
        if (other == null && dora) {
          other = modulePath(key, MAGNITUDE);
        }
        if (other == null) {
          throw new InputException(
              file.file()
                  + ": tensor "
                  + Text.quote(key)
                  + ": expected only lora_A.weight, lora_B.weight"
                  + (dora ? " and lora_magnitude_vector" : "")
                  + " of modules; other trained tensors cannot be merged");
        }
        file.tensor(PeftAdapterFile.aName(other));
        continue;
      }
      int rank = lora.rank(path);
      TensorSource a = checked(file.tensor(key), rank, -1);
      TensorSource b = checked(file.tensor(PeftAdapterFile.bName(path)), -1, rank);
      TensorSource magnitude =
          dora
              ? checked(file.tensor(PeftAdapterFile.PREFIX + path + MAGNITUDE), b.shape()[0])
              : null;
      modules.put(path, new Module(path, lora.scaling(path), a, b, magnitude));
    }
    if (modules.isEmpty()) {
      throw new InputException(file.file() + ": expected LoRA matrices, found no tensor");
    }
    return modules;
  }

  private static @Nullable String modulePath(String key, String suffix) {
    return key.startsWith(PeftAdapterFile.PREFIX)
            && key.endsWith(suffix)
            && key.length() > PeftAdapterFile.PREFIX.length() + suffix.length()
        ? key.substring(PeftAdapterFile.PREFIX.length(), key.length() - suffix.length())
        : null;
  }

  /** A floating-point tensor of this shape, where -1 stands for any size of at least 1. */
  private static TensorSource checked(TensorSource tensor, long... expected) {
    long[] shape = tensor.shape();
    boolean fits = shape.length == expected.length;
    for (int i = 0; fits && i < shape.length; i++) {
      fits = expected[i] < 0 ? shape[i] > 0 : shape[i] == expected[i];
    }
    StoredType type = tensor.storedType();
    if (!fits || (type != StoredType.F32 && type != StoredType.BF16 && type != StoredType.F16)) {
      throw new InputException(
          tensor.file()
              + ": tensor "
              + Text.quote(tensor.name())
              + ": expected F32, BF16 or F16 of the shape "
              + Arrays.toString(expected).replace("-1", "any")
              + ", found "
              + type
              + " "
              + Arrays.toString(shape));
    }
    return tensor;
  }

  /** Whether every module has a magnitude vector. */
  boolean dora() {
    return lora.dora();
  }

  /** By the path of the adapted module, sorted. */
  Map<String, Module> modules() {
    return modules;
  }

  /** Identifies the adapter: its tensors and what it makes of them. */
  String fingerprint() {
    return ModelCheckpoint.fingerprint(file.tensors().values()) + " " + lora;
  }

  @Override
  public void close() {
    file.close();
  }
}
