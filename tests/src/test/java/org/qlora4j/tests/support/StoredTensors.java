// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.support;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.UnaryOperator;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.StoredType;

/** A checkpoint's tensors in memory, to be changed by a test and written again. */
public final class StoredTensors {
  private final Map<String, Tensor> tensors = new LinkedHashMap<>();

  /** One tensor. */
  public record Tensor(StoredType type, long[] shape, byte[] bytes) {}

  /** The tensors of a file. */
  public static StoredTensors read(Path file) {
    StoredTensors read = new StoredTensors();
    try (SafetensorsFile source = SafetensorsFile.open(file)) {
      source
          .tensors()
          .forEach(
              (name, tensor) ->
                  read.put(name, tensor.storedType(), tensor.toBytes(), tensor.shape()));
    }
    return read;
  }

  /** Adds or replaces a tensor. */
  public StoredTensors put(String name, StoredType type, byte[] bytes, long... shape) {
    tensors.put(name, new Tensor(type, shape, bytes));
    return this;
  }

  /** Adds or replaces a tensor of text. */
  public StoredTensors put(String name, String text) {
    byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
    return put(name, StoredType.U8, bytes, bytes.length);
  }

  /** Replaces the text of a tensor. */
  public StoredTensors edit(String name, UnaryOperator<String> change) {
    return put(name, change.apply(new String(get(name).bytes(), StandardCharsets.UTF_8)));
  }

  /** Takes a tensor away. */
  public StoredTensors remove(String name) {
    if (tensors.remove(name) == null) {
      throw new AssertionError("no tensor " + name);
    }
    return this;
  }

  /** A tensor that is there. */
  public Tensor get(String name) {
    Tensor tensor = tensors.get(name);
    if (tensor == null) {
      throw new AssertionError("no tensor " + name + " among " + tensors.keySet());
    }
    return tensor;
  }

  /** The tensors by name. */
  public Map<String, Tensor> tensors() {
    return tensors;
  }

  /** Writes them as a directory's only file of weights. */
  public Path write(Path directory) {
    try (SafetensorsWriter writer =
        SafetensorsWriter.create(directory.resolve(ModelCheckpoint.SINGLE_FILE))) {
      tensors.forEach((name, tensor) -> writer.declare(name, tensor.type(), tensor.shape()));
      tensors.forEach((name, tensor) -> writer.write(name, ByteBuffer.wrap(tensor.bytes())));
      writer.commit();
    }
    return directory;
  }
}
