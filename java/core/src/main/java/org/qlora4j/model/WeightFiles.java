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
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.tensor.TorchBridge;

/** Trained tensors to and from safetensors files. */
public final class WeightFiles {

  private WeightFiles() {}

  /**
   * Writes all parameters into {@code directory}/model.safetensors as {@code type} (F32, BF16 or
   * F16; one rounding).
   */
  public static void write(KernelPack pack, ParameterSet parameters, Path directory, DType type) {
    try (SafetensorsWriter writer =
        SafetensorsWriter.create(directory.resolve(ModelCheckpoint.SINGLE_FILE))) {
      for (Parameter parameter : parameters.parameters()) {
        writer.declare(parameter.name(), StoredType.of(type), parameter.value().shape());
      }
      for (Parameter parameter : parameters.parameters()) {
        DeviceTensor value = parameter.value();
        if (type == DType.F32) {
          writer.write(parameter.name(), hostCopy(value));
        } else {
          try (DeviceBuffer memory = DeviceBuffer.allocate(pack, value.elements() * type.bytes())) {
            DeviceTensor rounded = DeviceTensor.of(memory, 0, type, value.shape());
            TorchBridge.copy(value, rounded);
            writer.write(parameter.name(), hostCopy(rounded));
          }
        }
      }
      writer.commit();
    }
  }

  /** Writes f32 tensors under the given names. */
  public static void write(Path file, List<String> names, List<DeviceTensor> tensors) {
    try (SafetensorsWriter writer = SafetensorsWriter.create(file)) {
      for (int i = 0; i < names.size(); i++) {
        writer.declare(names.get(i), StoredType.of(tensors.get(i).dtype()), tensors.get(i).shape());
      }
      for (int i = 0; i < names.size(); i++) {
        writer.write(names.get(i), hostCopy(tensors.get(i)));
      }
      writer.commit();
    }
  }

  /**
   * Reads f32 tensors written by {@link #write(Path, List, List)} into memory of the same shapes.
   */
  public static void read(Path file, List<String> names, List<DeviceTensor> tensors) {
    try (SafetensorsFile source = SafetensorsFile.open(file)) {
      for (int i = 0; i < names.size(); i++) {
        var tensor = source.tensor(names.get(i));
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
        tensors.get(i).copyFrom(tensor.toFloats());
      }
    }
  }

  private static ByteBuffer hostCopy(DeviceTensor tensor) {
    ByteBuffer bytes = ByteBuffer.wrap(tensor.toBytes()).order(ByteOrder.LITTLE_ENDIAN);
    return bytes;
  }
}
