// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.gguf;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.DiskSpace;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.common.Text;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.model.WeightNames.Module;
import org.qlora4j.model.WeightNames.Part;
import org.qlora4j.quant.DenseRows;

/**
 * Writes a model directory as one GGUF file for llama.cpp: hyperparameters, tokenizer, and tensors
 * under its names and in its order of rows. Weights in 4 or 8 bits are dequantized first. A dense
 * tensor passes through in pieces of some rows.
 *
 * <p>Vectors are F32. With a block type, matrices whose rows do not fill its blocks are F16, and
 * with Q4_0 the head (or the embedding that serves as one) is Q8_0, because it suffers most.
 */
public final class GgufExporter {
  private static final int CHUNK_ELEMENTS = 1 << 20;

  private final KernelPack pack;
  private final GgufType type;

  /**
   * What was written.
   *
   * @param tensors number of tensors
   * @param bytes of the file's data
   * @param notes for the user: where llama.cpp will differ
   */
  public record Result(int tensors, long bytes, List<String> notes) {
    public Result {
      notes = List.copyOf(notes);
    }
  }

  /** One tensor of the file. */
  private record Item(
      String name,
      GgufType type,
      Module module,
      boolean bias,
      GgufArchitecture.@Nullable RowOrder order) {
    long rows() {
      return bias || module.shape().size() == 1 ? 1 : module.rows();
    }

    long cols() {
      return bias || module.shape().size() == 1 ? module.rows() : module.cols();
    }
  }

  /** An exporter of matrices as {@code type}. */
  public GgufExporter(KernelPack pack, GgufType type) {
    this.pack = pack;
    this.type = type;
  }

  /** Exports a model directory into a file, which appears whole or not at all. */
  public Result export(Path modelDirectory, Path target, Progress progress) {
    ModelConfig config = ModelConfig.read(modelDirectory);
    GgufArchitecture architecture = GgufArchitecture.of(config);
    GgufTokenizer.Content tokenizer = GgufTokenizer.read(modelDirectory, config.vocabSize());
    WeightNames names = WeightNames.of(config);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(modelDirectory);
        GgufWriter writer = GgufWriter.create(target)) {
      names.check(checkpoint);
      writer.metadata("general.architecture", GgufValue.string(architecture.name()));
      writer.metadata("general.type", GgufValue.string("model"));
      writer.metadata("general.name", GgufValue.string(name(modelDirectory)));
      writer.metadata("general.file_type", GgufValue.u32(type.fileType()));
      if (type.isQuantized()) {
        writer.metadata("general.quantization_version", GgufValue.u32(2));
      }
      architecture.metadata().forEach(writer::metadata);
      tokenizer.metadata().forEach(writer::metadata);
      float[] factors = architecture.ropeFactors();
      if (factors != null) {
        writer.declare("rope_freqs.weight", GgufType.F32, factors.length);
      }
      List<Item> items = items(names, config, architecture);
      for (Item item : items) {
        if (item.rows() == 1) {
          writer.declare(item.name(), item.type(), item.cols());
        } else {
          writer.declare(item.name(), item.type(), item.cols(), item.rows());
        }
      }
      DiskSpace.require(target, writer.dataBytes());
      Work work = new Work(writer, checkpoint, names);
      if (factors != null) {
        work.host.clear();
        BlockEncoding.encode(factors, 0, factors.length, GgufType.F32, work.host);
        writer.write("rope_freqs.weight", work.host.flip());
      }
      progress.start("exporting", items.size());
      for (int i = 0; i < items.size(); i++) {
        progress.update(i, items.get(i).name());
        work.write(items.get(i));
      }
      progress.update(items.size(), "done");
      progress.finish();
      writer.commit();
      List<String> notes = new ArrayList<>(architecture.notes());
      notes.addAll(tokenizer.notes());
      return new Result(items.size() + (factors == null ? 0 : 1), writer.dataBytes(), notes);
    }
  }

  private static String name(Path directory) {
    return String.valueOf(directory.toAbsolutePath().normalize().getFileName());
  }

  private List<Item> items(WeightNames names, ModelConfig config, GgufArchitecture architecture) {
    List<Module> modules = new ArrayList<>(names.modules());
    if (config.tiedHead() && architecture.writesTiedHead()) {
      modules.add(names.module(Part.HEAD, -1));
    }
    List<Item> items = new ArrayList<>();
    for (Module module : modules) {
      String tensor = architecture.tensor(module);
      GgufArchitecture.RowOrder order = architecture.rowOrder(module);
      items.add(new Item(tensor + ".weight", type(module, config), module, false, order));
      if (module.hasBias()) {
        items.add(new Item(tensor + ".bias", GgufType.F32, module, true, order));
      }
    }
    return items;
  }

  private GgufType type(Module module, ModelConfig config) {
    if (module.shape().size() == 1) {
      return GgufType.F32;
    }
    boolean head =
        module.part() == Part.HEAD || (config.tiedHead() && module.part() == Part.EMBEDDING);
    GgufType wanted = type == GgufType.Q4_0 && head ? GgufType.Q8_0 : type;
    return module.cols() % wanted.blockElements() == 0 ? wanted : GgufType.F16;
  }

  /** Writes tensors. */
  private final class Work {
    final ByteBuffer host =
        ByteBuffer.allocateDirect(CHUNK_ELEMENTS * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
    private final GgufWriter writer;
    private final ModelCheckpoint checkpoint;
    private final WeightNames names;

    Work(GgufWriter writer, ModelCheckpoint checkpoint, WeightNames names) {
      this.writer = writer;
      this.checkpoint = checkpoint;
      this.names = names;
    }

    void write(Item item) {
      try (DenseRows rows = rows(item)) {
        int chunk = rows.rowsOf(CHUNK_ELEMENTS);
        int cols = Math.toIntExact(item.cols());
        float[] values = new float[Math.multiplyExact(chunk, cols)];
        for (long first = 0; first < item.rows(); first += chunk) {
          int count = (int) Math.min(chunk, item.rows() - first);
          read(rows, item, first, count, values);
          encode(item, values, count * cols);
        }
      }
    }

    private DenseRows rows(Item item) {
      Module module = item.module();
      if (item.bias()) {
        return DenseRows.of(Objects.requireNonNull(names.bias(checkpoint, module)));
      }
      if (WeightNames.isQuantized(checkpoint, module)) {
        return DenseRows.of(pack, names.quantized(checkpoint, module));
      }
      return DenseRows.of(names.weight(checkpoint, module));
    }

    private void read(DenseRows rows, Item item, long first, int count, float[] values) {
      GgufArchitecture.RowOrder order = item.order();
      if (order == null) {
        rows.read(first, count, values);
        return;
      }
      int cols = (int) item.cols();
      if (item.rows() == 1) {
        float[] stored = new float[cols];
        rows.read(0, 1, stored);
        for (int i = 0; i < cols; i++) {
          values[i] = stored[(int) order.source(i)];
        }
        return;
      }
      float[] row = new float[cols];
      for (int i = 0; i < count; i++) {
        rows.read(order.source(first + i), 1, row);
        System.arraycopy(row, 0, values, i * cols, cols);
      }
    }

    private void encode(Item item, float[] values, int elements) {
      for (int at = 0; at < elements; at += CHUNK_ELEMENTS) {
        host.clear();
        int count = Math.min(CHUNK_ELEMENTS, elements - at);
        if (!BlockEncoding.encode(values, at, count, item.type(), host)) {
          TensorSource source = checkpoint.find(item.module().weight());
          throw new InputException(
              (source == null ? checkpoint.directory() : source.file())
                  + ": tensor "
                  + Text.quote(item.module().path())
                  + ": expected values that "
                  + item.type()
                  + " can hold, found infinite or larger ones; use --type bf16 or f32");
        }
        writer.write(item.name(), host.flip());
      }
    }
  }
}
