// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.checkpoint;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Json;
import org.qlora4j.common.Sha256;
import org.qlora4j.common.Text;

/**
 * The weights of a Hugging Face model directory: {@code model.safetensors}, or the shards that
 * {@code model.safetensors.index.json} lists. All headers are read and checked when it is opened.
 */
public final class ModelCheckpoint implements AutoCloseable {
  /** The only file of a checkpoint in one piece. */
  public static final String SINGLE_FILE = "model.safetensors";

  /** The list of shards of a checkpoint in several pieces. */
  public static final String INDEX_FILE = "model.safetensors.index.json";

  private static final long MAX_INDEX_BYTES = 256L << 20;
  private static final int FINGERPRINT_BYTES = 4096;

  private final Path directory;
  private final Map<String, SafetensorsFile> files;
  private final Map<String, TensorSource> tensors;

  private ModelCheckpoint(
      Path directory, Map<String, SafetensorsFile> files, Map<String, TensorSource> tensors) {
    this.directory = directory;
    this.files = files;
    this.tensors = Collections.unmodifiableMap(tensors);
  }

  /** Whether a directory holds weights in a form {@link #open} takes. */
  public static boolean exists(Path directory) {
    return Files.isRegularFile(directory.resolve(SINGLE_FILE))
        || Files.isRegularFile(directory.resolve(INDEX_FILE));
  }

  /** Opens a model directory's weights. */
  public static ModelCheckpoint open(Path directory) {
    if (!Files.isDirectory(directory)) {
      throw new InputException("no such model directory: " + directory);
    }
    Map<String, SafetensorsFile> files = new LinkedHashMap<>();
    boolean opened = false;
    try {
      Map<String, TensorSource> tensors;
      Path single = directory.resolve(SINGLE_FILE);
      Path index = directory.resolve(INDEX_FILE);
      if (Files.isRegularFile(single)) {
        SafetensorsFile file = SafetensorsFile.open(single);
        files.put(SINGLE_FILE, file);
        tensors = file.tensors();
      } else if (Files.isRegularFile(index)) {
        tensors = openShards(directory, index, files);
      } else {
        throw new InputException(
            directory
                + ": expected "
                + SINGLE_FILE
                + " or "
                + INDEX_FILE
                + ", found neither"
                + (Files.exists(directory.resolve("pytorch_model.bin"))
                        || Files.exists(directory.resolve("pytorch_model.bin.index.json"))
                    ? "; pytorch_model.bin is not read because it can run code: convert it to safetensors"
                    : ""));
      }
      ModelCheckpoint checkpoint = new ModelCheckpoint(directory, files, tensors);
      opened = true;
      return checkpoint;
    } finally {
      if (!opened) {
        files.values().forEach(SafetensorsFile::close);
      }
    }
  }

  private static Map<String, TensorSource> openShards(
      Path directory, Path index, Map<String, SafetensorsFile> files) {
    ObjectNode json = Json.readObject(index, MAX_INDEX_BYTES);
    JsonNode weightMap = json.get("weight_map");
    if (weightMap == null || !weightMap.isObject() || weightMap.isEmpty()) {
      throw new InputException(
          index
              + ": expected weight_map to be an object of tensor names and files, found "
              + (weightMap == null ? "nothing" : Json.kind(weightMap)));
    }
    Map<String, TensorSource> tensors = new LinkedHashMap<>();
    for (Map.Entry<String, JsonNode> entry : weightMap.properties()) {
      String name = entry.getKey();
      String shard = entry.getValue().isTextual() ? entry.getValue().textValue() : null;
      if (shard == null || !plainFileName(shard)) {
        throw new InputException(
            index
                + ": tensor "
                + Text.quote(name)
                + ": expected the plain name of a file beside the index, found "
                + Json.kind(entry.getValue()));
      }
      SafetensorsFile file = files.get(shard);
      if (file == null) {
        Path path = directory.resolve(shard);
        if (!Files.isRegularFile(path)) {
          throw new InputException(
              index
                  + ": expected the shard "
                  + Text.quote(shard)
                  + " beside it, found no such file");
        }
        file = SafetensorsFile.open(path);
        files.put(shard, file);
      }
      TensorSource tensor = file.find(name);
      if (tensor == null) {
        throw new InputException(
            index
                + ": expected tensor "
                + Text.quote(name)
                + " in "
                + file.file()
                + ", found none of that name");
      }
      tensors.put(name, tensor);
    }
    return tensors;
  }

  /** A name that stays in the directory: no separators, not "." or "..", ending in .safetensors. */
  private static boolean plainFileName(String name) {
    return name.endsWith(".safetensors")
        && name.indexOf('/') < 0
        && name.indexOf('\\') < 0
        && name.indexOf('\0') < 0
        && name.indexOf(':') < 0
        && !name.startsWith(".");
  }

  /** The model directory. */
  public Path directory() {
    return directory;
  }

  /** Names of all tensors. */
  public Set<String> names() {
    return tensors.keySet();
  }

  /** All tensors. */
  public Collection<TensorSource> tensors() {
    return tensors.values();
  }

  /** The tensor of this name, or null. */
  public @Nullable TensorSource find(String name) {
    return tensors.get(name);
  }

  /** The tensor of this name; an InputException says that the checkpoint lacks it. */
  public TensorSource tensor(String name) {
    TensorSource tensor = tensors.get(name);
    if (tensor == null) {
      String near = Text.nearest(name, tensors.keySet());
      throw new InputException(
          directory
              + ": expected a tensor "
              + Text.quote(name)
              + ", found none of that name among "
              + tensors.size()
              + (near == null ? "" : "; the nearest is " + Text.quote(near)));
    }
    return tensor;
  }

  /** Bytes of all tensors together. */
  public long bytes() {
    return tensors.values().stream().mapToLong(TensorSource::bytes).sum();
  }

  /**
   * SHA-256 (hexadecimal) of every tensor's name, type, shape and its first and last 4 KiB, in
   * order of the names: cheap for any size, the same however the tensors are sharded, and different
   * between two models or two trainings of one.
   */
  public String fingerprint() {
    return fingerprint(tensors.values());
  }

  /** The same of any tensors. */
  public static String fingerprint(Collection<TensorSource> tensors) {
    MessageDigest digest = Sha256.digest();
    Map<String, TensorSource> sorted = new TreeMap<>();
    tensors.forEach(tensor -> sorted.put(tensor.name(), tensor));
    for (TensorSource tensor : sorted.values()) {
      digest.update(
          (tensor.name() + "|" + tensor.storedType() + "|" + Arrays.toString(tensor.shape()) + "\n")
              .getBytes(StandardCharsets.UTF_8));
      long bytes = tensor.bytes();
      ByteBuffer buffer = ByteBuffer.allocate((int) Math.min(bytes, FINGERPRINT_BYTES));
      tensor.read(0, buffer);
      digest.update(buffer.flip());
      if (bytes > FINGERPRINT_BYTES) {
        buffer.clear();
        tensor.read(bytes - buffer.capacity(), buffer);
        digest.update(buffer.flip());
      }
    }
    return Sha256.hex(digest);
  }

  @Override
  public void close() {
    files.values().forEach(SafetensorsFile::close);
  }

  /**
   * Copies what belongs to a model but its weights into `target`: tokenizer files, generation
   * config, chat template, and config.json with the stored type set to `dtype` ("float32",
   * "bfloat16").
   */
  public static void copyCompanions(Path source, Path target, String dtype) throws IOException {
    copyTokenizer(source, target);
    ObjectNode config = Json.readObject(source.resolve("config.json"), MAX_INDEX_BYTES);
    config.put(config.has("dtype") ? "dtype" : "torch_dtype", dtype);
    Files.writeString(target.resolve("config.json"), Json.pretty(config));
  }

  /** Copies tokenizer files, generation config and chat template, those that are there. */
  public static void copyTokenizer(Path source, Path target) throws IOException {
    for (String name :
        new String[] {
          "tokenizer.json",
          "tokenizer.model",
          "vocab.json",
          "merges.txt",
          "tokenizer_config.json",
          "special_tokens_map.json",
          "generation_config.json",
          "chat_template.jinja",
          "added_tokens.json"
        }) {
      Path file = source.resolve(name);
      if (Files.isRegularFile(file)) {
        // An interrupted run that is gone on with may have left a part of it.
        Files.copy(file, target.resolve(name), StandardCopyOption.REPLACE_EXISTING);
      }
    }
  }
}
