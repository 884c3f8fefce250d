// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tensor;

import java.util.ArrayList;
import java.util.List;
import org.bytedeco.javacpp.Loader;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.PointerScope;
import org.bytedeco.pytorch.Context;
import org.bytedeco.pytorch.global.torch;
import org.bytedeco.pytorch.global.torch_cuda;
import org.jspecify.annotations.Nullable;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Text;

/**
 * libtorch's CUDA: whether it is there, its current stream, and its settings. The one class that
 * touches what only the presets for GPUs have (profile {@code gpu} of the build), and only once
 * libtorch has said that it finds a GPU.
 */
final class TorchCuda {

  /** The libraries of CUDA 13 and cuDNN 9 that libtorch is linked with, as its files name them. */
  private static final List<String> LIBRARIES =
      List.of(
          "libcudart.so.13",
          "libcublas.so.13",
          "libcublasLt.so.13",
          "libcudnn.so.9",
          "libcufft.so.12",
          "libcurand.so.10",
          "libcusparse.so.12",
          "libcusolver.so.12",
          "libcufile.so.0",
          "libcupti.so.13",
          "libnccl.so.2");

  private TorchCuda() {}

  /**
   * What keeps libtorch from computing on a GPU, in a few words; null when nothing does.
   *
   * @throws InputException when libtorch cannot be loaded at all
   */
  static @Nullable String missing() {
    load();
    if (torch.cuda_is_available()) {
      return null;
    }
    if (Context.hasCUDART()) {
      return "libtorch finds no CUDA device";
    }
    String natives = "/org/bytedeco/pytorch/" + Loader.getPlatform() + "-gpu/libtorch_cuda.so";
    if (torch.class.getResource(natives) == null) {
      return "libtorch is the one for the CPU (QLORA4J_GPU=1 ./qlora4j or the profile gpu takes the other)";
    }
    return "libtorch has no CUDA" + wanting();
  }

  /**
   * Loads libtorch before the first question about CUDA, whose answer it keeps. JavaCPP extracts
   * one library after the other as it loads them, so on first use those of CUDA do not find the
   * ones they need beside them and are passed over without a word; loading a second class finds
   * them.
   */
  private static void load() {
    try {
      Loader.load(torch.class);
      Loader.load(Context.class);
    } catch (LinkageError e) {
      throw new InputException("libtorch cannot be loaded" + wanting(), e);
    }
  }

  /** Which of the machine's libraries are missing, and what to do. */
  private static String wanting() {
    List<String> absent = new ArrayList<>();
    for (String library : LIBRARIES) {
      try {
        // By its bare name, as the dynamic linker looks for what libtorch needs.
        Loader.loadGlobal(library);
      } catch (UnsatisfiedLinkError e) {
        absent.add(library);
      }
    }
    return absent.isEmpty()
        ? ""
        : " for want of "
            + String.join(" ", absent)
            + " (QLORA4J_CUDA_LIBRARIES or LD_LIBRARY_PATH names their folders)";
  }

  /**
   * The stream on which libtorch orders this thread's work on a device, for a pack to order its own
   * on; null for the default stream. Borrowed from libtorch.
   *
   * @throws InputException when another stream was set and the presets that know its handle cannot
   *     be loaded
   */
  static @Nullable Pointer currentStream(int device) {
    try (PointerScope scope = new PointerScope()) {
      // Stream 0 is the default one, whose handle is null: nothing more has to be loaded for it.
      if (torch.getCurrentStream((byte) device).id() == 0) {
        return null;
      }
      // The handle's Java object owns nothing.
      return StreamHandle.current(device);
    } catch (LinkageError e) {
      throw new InputException(
          "libtorch's CUDA stream cannot be shared: "
              + Text.oneLine(String.valueOf(e.getMessage()))
              + "; org.bytedeco:cuda with its natives must be on the class path (profile gpu)",
          e);
    }
  }

  /**
   * Lets libtorch's operators give the same bits every time, as the pack's do: the backward of
   * flash attention and adding rows would otherwise add up in any order. Holds for the process.
   */
  static void makeDeterministic() {
    Context context = torch.globalContext();
    context.setDeterministicAlgorithms(true, false);
    // That would also write NaN patterns into every new tensor, which costs time and finds nothing.
    context.setDeterministicFillUninitializedMemory(false);
  }

  /**
   * Apart, because checking this code loads the class of the handle, which only the presets for
   * GPUs bring.
   */
  private static final class StreamHandle {
    static Pointer current(int device) {
      return torch_cuda.getCurrentCUDAStream((byte) device).stream();
    }
  }
}
