// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.model;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.List;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.SafetensorsWriter;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.tensor.TorchBridge;

/** Trained tensors to and from safetensors files. */
public final class WeightFiles {

  /** Bytes on the host at a time: an embedding in f32 may be larger than the heap. */
  private static final int CHUNK_BYTES = 4 << 20;

  private WeightFiles() {}

  /**
   * Writes all parameters into {@code directory}/model.safetensors as {@code type} (F32, BF16 or
   * F16; one rounding).
   */
  public static void write(KernelPack pack, ParameterSet parameters, Path directory, DType type) {
    ByteBuffer host = hostBuffer();
    try (SafetensorsWriter writer =
        SafetensorsWriter.create(directory.resolve(ModelCheckpoint.SINGLE_FILE))) {
      for (Parameter parameter : parameters.parameters()) {
        writer.declare(parameter.name(), StoredType.of(type), parameter.value().shape());
      }
      for (Parameter parameter : parameters.parameters()) {
        DeviceTensor value = parameter.value();
        if (type == DType.F32) {
          write(writer, parameter.name(), value, host);
        } else {
          try (DeviceBuffer memory = DeviceBuffer.allocate(pack, value.elements() * type.bytes())) {
            DeviceTensor rounded = DeviceTensor.of(memory, 0, type, value.shape());
            TorchBridge.copy(value, rounded);
            write(writer, parameter.name(), rounded, host);
          }
        }
      }
      writer.commit();
    }
  }

  /** Writes f32 tensors under the given names. */
  public static void write(Path file, List<String> names, List<DeviceTensor> tensors) {
    ByteBuffer host = hostBuffer();
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      for (int i = 0; i < names.size(); i++) {
        writer.declare(names.get(i), StoredType.of(tensors.get(i).dtype()), tensors.get(i).shape());
      }
      for (int i = 0; i < names.size(); i++) {
        write(writer, names.get(i), tensors.get(i), host);
      }
      writer.commit();
    }
  }

  /**
   * Reads f32 tensors written by {@link #write(Path, List, List)} into memory of the same shapes.
   */
  public static void read(Path file, List<String> names, List<DeviceTensor> tensors) {
    ByteBuffer host = hostBuffer();
    try (SafetensorsFile source = SafetensorsFile.open(file)) {
      for (int i = 0; i < names.size(); i++) {
        TensorSource tensor = source.tensor(names.get(i));
        if (tensor.elements() != tensors.get(i).elements()
            || tensor.storedType() != StoredType.F32) {
          throw new InputException(
              file
                  + ": tensor "
                  + names.get(i)
                  + ": expected "
                  + tensors.get(i).elements()
                  + " elements of F32, found "
                  + tensor.elements()
                  + " of "
                  + tensor.storedType());
        }
        read(tensor, tensors.get(i), host);
      }
    }
  }

  /** Writes a contiguous f32 tensor under a name that was declared. */
  public static void write(SafetensorsWriter writer, String name, DeviceTensor tensor) {
    write(writer, name, tensor, hostBuffer());
  }

  /** Reads a tensor of a floating-point type into contiguous f32 memory of the same size. */
  public static void read(KernelPack pack, TensorSource source, DeviceTensor target) {
    try (WeightReader reader = new WeightReader(pack)) {
      reader.readInto(source, target);
    }
  }

  /** Writes a contiguous tensor of any type as it is. */
  private static void write(
      SafetensorsWriter writer, String name, DeviceTensor tensor, ByteBuffer host) {
    for (long done = 0; done < tensor.bytes(); done += CHUNK_BYTES) {
      host.clear().limit((int) Math.min(CHUNK_BYTES, tensor.bytes() - done));
      tensor.buffer().copyOut(tensor.byteOffset() + done, host);
      writer.write(name, host);
    }
  }

  /** Reads into a contiguous tensor of the same type and size. */
  private static void read(TensorSource source, DeviceTensor target, ByteBuffer host) {
    source.readThrough(
        host, (at, bytes) -> target.buffer().copyIn(target.byteOffset() + at, bytes));
  }

  private static ByteBuffer hostBuffer() {
    return ByteBuffer.allocateDirect(CHUNK_BYTES).order(ByteOrder.LITTLE_ENDIAN);
  }
}
