// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tensor;

import java.util.List;
import java.util.Locale;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.pytorch.global.torch;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.DeviceException;
import org.qlora4j.kernels.DeviceKind;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.PackOptions;

/**
 * Where a model computes, as the user asks for it. {@link #open} gives the kernel pack that goes
 * with it, on a device that libtorch shares: on a GPU both work in the order of one stream.
 */
public enum ComputeDevice {
  /**
   * The GPU when there is one, the pack has the operators of a training step and libtorch was built
   * with CUDA; else the best pack of the CPU.
   */
  AUTO,
  /** The CPU. */
  CPU,
  /** An NVIDIA GPU, or an error that says what is missing. */
  CUDA;

  private static final String NEEDS =
      "; a GPU needs an NVIDIA driver for CUDA 13, compute capability 8.0 or newer, the pack cuda (built where nvcc is)"
          + " and libtorch for CUDA (docs/cuda.md); or use device: auto";

  /** What {@link TorchAttention} does in place of a pack on a GPU. */
  private static final List<String> ATTENTION = List.of("attention_forward", "attention_backward");

  /** The name in configurations and on the command line. */
  public String key() {
    return name().toLowerCase(Locale.ROOT);
  }

  /**
   * Opens the pack that {@code options} name, or the best of this device. An explicit pack that
   * computes elsewhere is refused. On the CPU libtorch is given the pack's number of threads, which
   * holds for the whole process.
   *
   * @throws InputException when there is none, saying what was looked for
   */
  public KernelPack open(PackOptions options) {
    KernelPack pack = openPack(options);
    if (pack.deviceKind() == DeviceKind.CPU) {
      // The pack and libtorch take turns on the same threads' worth of CPU.
      torch.set_num_threads(pack.threads());
      return pack;
    }
    try {
      // A pack that was chosen by name did not have to pass refusal().
      String missing = TorchCuda.missing();
      if (missing != null) {
        throw new InputException("the pack " + pack.name() + " is for a GPU, but " + missing);
      }
      TorchCuda.makeDeterministic();
      Pointer stream = options.stream() == null ? TorchCuda.currentStream(pack.device()) : null;
      if (stream == null) {
        return pack;
      }
      // Only now is it known that there is a GPU, and a libtorch to share it with.
      pack.close();
      return openPack(options.withStream(stream));
    } catch (InputException e) {
      pack.close();
      throw e;
    }
  }

  private KernelPack openPack(PackOptions options) {
    try {
      return KernelPack.open(options.withKind(kind()), ComputeDevice::refusal);
    } catch (IllegalArgumentException e) {
      throw cannotOpen(e, "");
    } catch (UnsupportedOperationException | DeviceException e) {
      throw cannotOpen(e, this == CUDA ? NEEDS : "");
    }
  }

  private InputException cannotOpen(RuntimeException e, String advice) {
    return new InputException(
        (this == AUTO ? "" : "device: " + key() + ": ")
            + "cannot open a kernel pack: "
            + Text.oneLine(String.valueOf(e.getMessage()))
            + advice,
        e);
  }

  private @Nullable DeviceKind kind() {
    return switch (this) {
      case AUTO -> null;
      case CPU -> DeviceKind.CPU;
      case CUDA -> DeviceKind.CUDA;
    };
  }

  /** Why a pack is not taken without being asked for. */
  private static @Nullable String refusal(KernelPack pack) {
    if (pack.deviceKind() == DeviceKind.CPU) {
      return pack.lacks(KernelPack.TRAINING_STEP);
    }
    String lacks =
        pack.lacks(
            KernelPack.TRAINING_STEP.stream().filter(name -> !ATTENTION.contains(name)).toList());
    return lacks == null ? TorchCuda.missing() : lacks;
  }
}
