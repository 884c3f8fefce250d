// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.formats;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.common.Progress;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.Quantization8Bit;
import org.qlora4j.kernels.QuantizationInt8;
import org.qlora4j.kernels.Weight;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.CheckpointQuantizer;
import org.qlora4j.quant.CodeTables;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedTensors;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.SmallModel;
import org.qlora4j.tests.support.StoredTensors;

/** bitsandbytes' quantized weights in checkpoints: read to the bit, and refused when they lie. */
class QuantizedTensorsTest {
  private static final String WEIGHT = "model.layers.0.self_attn.q_proj.weight";
  private static final String STATE = WEIGHT + ".quant_state.bitsandbytes__nf4";

  private final Path folder;

  QuantizedTensorsTest(@TempDir Path folder) {
    this.folder = folder;
  }

  // ------------------------------------------------------------------ bits

  private Path dense() {
    Path dense = folder.resolve("dense");
    // 96 and 72 columns: blocks straddle rows, and the last block of a large block size is partial.
    SmallModel.write(dense, SmallModel.llama(64, 96, 1, 4, 2, 72), 5);
    return dense;
  }

  static Stream<Arguments> everyForm() {
    return Stream.of(WeightFormat.NF4, WeightFormat.FP4)
        .flatMap(
            format ->
                Stream.of(32, 64, 128, 256, 512, 1024, 2048, 4096)
                    .flatMap(
                        block ->
                            Stream.of(true, false)
                                .map(nested -> Arguments.of(format, block, nested))));
  }

  /** What is written is what was quantized, and is read again so, whatever the codes' type. */
  @ParameterizedTest
  @MethodSource("everyForm")
  void bitsSurvive(WeightFormat format, int blockSize, boolean nested) throws IOException {
    Path dense = dense();
    QuantizationConfig config = new QuantizationConfig(format, blockSize, nested);
    WeightNames names = WeightNames.of(ModelConfig.read(dense));
    Set<String> linears = new LinkedHashSet<>();
    names.linears().forEach(module -> linears.add(module.weight()));
    KernelPack pack = Packs.reference();
    Path out = folder.resolve("out");
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(dense)) {
      new CheckpointQuantizer(pack, config)
          .quantize(checkpoint, linears, dense, out, 1 << 30, Progress.none());
      for (StoredType storage :
          List.of(StoredType.U8, StoredType.BF16, StoredType.F16, StoredType.F32)) {
        Path stored = folder.resolve("stored-" + storage);
        Files.createDirectories(stored);
        StoredTensors tensors = StoredTensors.read(out.resolve(ModelCheckpoint.SINGLE_FILE));
        for (String linear : linears) {
          byte[] codes = tensors.get(linear).bytes();
          tensors.put(linear, storage, codes, codes.length * 8L / storage.bits(), 1);
        }
        tensors.write(stored);
        try (ModelCheckpoint quantized = ModelCheckpoint.open(stored)) {
          names.check(quantized);
          for (WeightNames.Module module : names.linears()) {
            assertSame(pack, checkpoint, quantized, names, module, config);
          }
        }
      }
    }
  }

  private static void assertSame(
      KernelPack pack,
      ModelCheckpoint dense,
      ModelCheckpoint stored,
      WeightNames names,
      WeightNames.Module module,
      QuantizationConfig config) {
    QuantizedTensors tensors = names.quantized(stored, module);
    assertEquals(config, tensors.config());
    assertEquals(DType.BF16, tensors.originalType());
    // A small buffer, so that weights come in several pieces.
    ByteBuffer host = ByteBuffer.allocateDirect(1000).order(ByteOrder.LITTLE_ENDIAN);
    TensorSource source = names.weight(dense, module);
    try (DeviceMemory memory = new DeviceMemory(pack);
        QuantizedWeight read = tensors.load(pack, host);
        QuantizedWeight made =
            QuantizedWeight.quantize(
                pack, memory.of(DType.BF16, source.toBytes(), source.shape()), config)) {
      read.pack();
      read.unpack();
      assertArrayEquals(made.codes().toBytes(), read.codes().toBytes(), module.path());
      assertArrayEquals(made.absmax().toBytes(), read.absmax().toBytes(), module.path());
      assertEquals(made.nestedOffset(), read.nestedOffset());
      DeviceTensor nested = made.nestedAbsmax();
      if (nested != null) {
        assertArrayEquals(
            nested.toBytes(), Objects.requireNonNull(read.nestedAbsmax()).toBytes(), module.path());
      }
    }
  }

  /** The packs decode with the same tables. */
  @ParameterizedTest
  @EnumSource(
      value = WeightFormat.class,
      names = {"NF4", "FP4"})
  void tablesAreThePacks(WeightFormat format) {
    byte[] pairs = new byte[16];
    for (int i = 0; i < 8; i++) {
      pairs[i] = (byte) (((2 * i) << 4) | (2 * i + 1));
    }
    byte[] all = new byte[256];
    for (int i = 0; i < all.length; i++) {
      all[i] = (byte) i;
    }
    try (DeviceMemory memory = new DeviceMemory(Packs.reference())) {
      DeviceTensor one = memory.of(DType.F32, new float[] {1}, 1);
      DeviceTensor values = memory.empty(DType.F32, 1, 32);
      Weight weight =
          new Weight(format, DType.F32, 32, 0, 0, 1, 32, memory.of(DType.U8, pairs, 16), one, null);
      Quantization4Bit.dequantize(memory.pack(), weight, values);
      assertArrayEquals(CodeTables.of(format), Arrays.copyOf(values.toFloats(), 16));
      DeviceTensor map = memory.empty(DType.F32, 256);
      Quantization8Bit.dequantize(
          memory.pack(),
          Quantization8Bit.Map.DYNAMIC_SIGNED,
          256,
          memory.of(DType.U8, all, 256),
          one,
          map);
      assertArrayEquals(CodeTables.dynamicSigned(), map.toFloats());
    }
  }

  /** The tables are those of bitsandbytes to the bit. */
  @Test
  void tablesAreTheLibrarys() {
    try (SafetensorsFile maps = Fixtures.topic("quant4").open("maps")) {
      assertArrayEquals(maps.tensor("nf4").toFloats(), CodeTables.of(WeightFormat.NF4));
      assertArrayEquals(maps.tensor("fp4").toFloats(), CodeTables.of(WeightFormat.FP4));
      assertArrayEquals(maps.tensor("dynamic_signed").toFloats(), CodeTables.dynamicSigned());
    }
  }

  // ------------------------------------------------------------------ real checkpoints

  @ParameterizedTest
  @ValueSource(
      strings = {
        "qwen2_5_1_5b_nf4_dq",
        "phi3_5_mini_nf4_dq",
        "llama_1b_nf4_double_quant",
        "llama_1b_nf4",
        "llama_1b_fp4",
        "qwen3_mcqa_fp4"
      })
  void realWeightsDequantizeAsOnTheGpu(String name) throws IOException {
    ByteBuffer file = reference(name);
    boolean nested = file.getInt() == 2;
    int elements = file.getInt();
    int blockSize = file.getInt();
    int[] lengths = new int[6];
    for (int i = 0; i < lengths.length; i++) {
      lengths[i] = file.getInt();
    }
    float offset = file.getFloat();
    byte[][] parts = new byte[lengths.length][];
    for (int i = 0; i < lengths.length; i++) {
      parts[i] = new byte[lengths[i]];
      file.get(parts[i]);
    }
    assertFalse(file.hasRemaining());
    String format = name.contains("fp4") ? "fp4" : "nf4";
    String state =
        String.format(
            Locale.ROOT,
            "{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"bfloat16\", \"shape\": [64, %d]%s}",
            format,
            blockSize,
            elements / 64,
            nested
                ? ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": "
                    + (double) offset
                : "");
    StoredTensors tensors =
        new StoredTensors()
            .put(WEIGHT, StoredType.U8, parts[0], parts[0].length, 1)
            .put(
                WEIGHT + ".absmax",
                nested ? StoredType.U8 : StoredType.F32,
                parts[1],
                elements / blockSize)
            .put(WEIGHT + ".quant_map", StoredType.F32, parts[2], 16)
            .put(WEIGHT + ".quant_state.bitsandbytes__" + format, state);
    if (nested) {
      tensors.put(WEIGHT + ".nested_absmax", StoredType.F32, parts[3], parts[3].length / 4);
      tensors.put(WEIGHT + ".nested_quant_map", StoredType.F32, parts[4], 256);
    }
    tensors.write(folder);
    for (String packName : Packs.names(true)) {
      if (!Packs.opens(packName)) {
        continue;
      }
      KernelPack pack = Packs.open(packName);
      try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder);
          QuantizedWeight weight = load(checkpoint, pack);
          DeviceMemory memory = new DeviceMemory(pack)) {
        DeviceTensor dense = memory.empty(DType.BF16, 64, elements / 64);
        Quantization4Bit.dequantize(pack, weight.weight(), dense);
        assertEqualButForZero(
            shorts(parts[5]), shorts(dense.toBytes()), format.equals("fp4"), packName);
      }
    }
  }

  private static void assertEqualButForZero(
      short[] expected, short[] actual, boolean zeroHasNoSign, String context) {
    if (zeroHasNoSign) {
      for (short[] values : List.of(expected, actual)) {
        for (int i = 0; i < values.length; i++) {
          values[i] = values[i] == (short) 0x8000 ? 0 : values[i];
        }
      }
    }
    assertArrayEquals(expected, actual, context);
  }

  @Test
  void realInt8WeightsDequantizeAsOnTheGpu() throws IOException {
    ByteBuffer file = reference("llama_1b_int8");
    assertEquals(1, file.getInt());
    int rows = file.getInt();
    int cols = file.getInt();
    byte[][] parts = new byte[3][];
    for (int i = 0; i < parts.length; i++) {
      parts[i] = new byte[file.getInt()];
    }
    for (byte[] part : parts) {
      file.get(part);
    }
    new StoredTensors()
        .put(WEIGHT, StoredType.I8, parts[0], rows, cols)
        .put("model.layers.0.self_attn.q_proj.SCB", StoredType.F32, parts[1], rows)
        .put("model.layers.0.self_attn.q_proj.weight_format", StoredType.U8, new byte[1])
        .write(folder);
    for (String packName : Packs.names(true)) {
      if (!Packs.opens(packName)) {
        continue;
      }
      KernelPack pack = Packs.open(packName);
      try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder);
          QuantizedWeight weight = load(checkpoint, pack);
          DeviceMemory memory = new DeviceMemory(pack)) {
        assertEquals(WeightFormat.INT8, weight.config().format());
        DeviceTensor dense = memory.empty(DType.BF16, rows, cols);
        QuantizationInt8.dequantize(pack, weight.codes(), weight.absmax(), dense);
        assertArrayEquals(parts[2], dense.toBytes(), packName);
      }
    }
  }

  private static QuantizedWeight load(ModelCheckpoint checkpoint, KernelPack pack) {
    return QuantizedTensors.of(checkpoint, WEIGHT)
        .load(pack, ByteBuffer.allocateDirect(1 << 16).order(ByteOrder.LITTLE_ENDIAN));
  }

  private static ByteBuffer reference(String name) throws IOException {
    Path file = FixtureFiles.data("bnb-nf4-reference/" + name + ".bin");
    return ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
  }

  private static short[] shorts(byte[] bytes) {
    short[] values = new short[bytes.length / 2];
    ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asShortBuffer().get(values);
    return values;
  }

  /** A file that another program wrote after the format's description, its table left empty. */
  @Test
  void anotherWritersFileIsReadOnceItsTableIsBitsandbytes() throws IOException {
    Path file = FixtureFiles.data("bnb-nf4-reference/bnb_nf4.safetensors");
    String weight = "model.layers.0.weight";
    StoredTensors tensors = StoredTensors.read(file);
    tensors.write(folder);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
      InputException e =
          assertThrows(InputException.class, () -> QuantizedTensors.of(checkpoint, weight));
      assertTrue(String.valueOf(e.getMessage()).contains("table of codes"), e.getMessage());
    }
    byte[] map = floats(CodeTables.of(WeightFormat.NF4));
    tensors.put(weight + ".quant_map", StoredType.F32, map, 16).write(folder);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
      QuantizedTensors read = QuantizedTensors.of(checkpoint, weight);
      assertEquals(64, read.rows() * read.cols());
      assertEquals(0, QuantizedTensors.storedBits(checkpoint, "model.norm.weight"));
    }
  }

  // ------------------------------------------------------------------ hostile

  /** A weight of 32 x 64 in NF4, double-quantized, and what is wrong with it. */
  private StoredTensors valid() {
    byte[] map = floats(CodeTables.of(WeightFormat.NF4));
    byte[] nestedMap = floats(CodeTables.dynamicSigned());
    return new StoredTensors()
        .put(WEIGHT, StoredType.U8, new byte[1024], 1024, 1)
        .put(WEIGHT + ".absmax", StoredType.U8, new byte[32], 32)
        .put(WEIGHT + ".quant_map", StoredType.F32, map, 16)
        .put(WEIGHT + ".nested_absmax", StoredType.F32, new byte[4], 1)
        .put(WEIGHT + ".nested_quant_map", StoredType.F32, nestedMap, 256)
        .put(
            STATE,
            "{\"quant_type\": \"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [32, 64],"
                + " \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.25}");
  }

  private static byte[] floats(float[] values) {
    ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
    bytes.asFloatBuffer().put(values);
    return bytes.array();
  }

  private void assertRefused(StoredTensors tensors, String... parts) {
    tensors.write(folder);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
      InputException e =
          assertThrows(InputException.class, () -> QuantizedTensors.of(checkpoint, WEIGHT));
      String message = String.valueOf(e.getMessage());
      assertEquals(1, message.lines().count(), message);
      assertTrue(message.contains(WEIGHT), message);
      for (String part : parts) {
        assertTrue(message.contains(part), message);
      }
    }
  }

  @Test
  void theUnchangedOneIsRead() {
    valid().write(folder);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
      assertEquals(32, QuantizedTensors.of(checkpoint, WEIGHT).rows());
    }
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "64,=48,|blocksize: expected a power of two",
        "64,=0,|blocksize",
        "64,=8192,|blocksize",
        "64,=-64,|blocksize",
        "64,=64.5,|blocksize: expected a whole number",
        "64,=92233720368547758080,|blocksize: expected a whole number",
        "64,=\"64\",|blocksize: expected a whole number",
        "[32, 64]=[33, 64]|expected 1056 bytes",
        "[32, 64]=[2147483647, 2147483647]|expected 2305843007066210305 bytes",
        "[32, 64]=[4294967328, 64]|shape: expected two positive numbers",
        "[32, 64]=[32.5, 64]|shape",
        "[32, 64]=[-32, -64]|shape",
        "[32, 64]=[0, 64]|shape",
        "[32, 64]=[2048]|shape",
        "[32, 64]=[32, 8, 8]|shape",
        "[32, 64]=\"x\"|shape",
        "bfloat16=int4|dtype: expected float32, bfloat16 or float16",
        "\"bfloat16\"=7|dtype: expected a text",
        "\"nf4\"=\"fp4\"|quant_type",
        "256=128|nested_blocksize: expected 256",
        "float32=float16|nested_dtype: expected float32",
        "0.25=NaN|nested_offset: expected a number",
        "0.25=1e300|nested_offset",
        "0.25=\"a\"|nested_offset",
        "\"nested_blocksize\": 256, =|nested_blocksize: expected a whole number",
        "}=|not valid JSON",
        "{=[{|JSON",
        "\"blocksize\": 64=\"blocksize\": 64, \"blocksize\": 32|not valid JSON",
      })
  void lyingStatesAreRefused(String change) {
    String[] edit = change.substring(0, change.lastIndexOf('|')).split("=", -1);
    String message = change.substring(change.lastIndexOf('|') + 1);
    assertEquals(2, edit.length, change);
    String before = edit[0];
    assertRefused(
        valid()
            .edit(
                STATE,
                text -> {
                  assertTrue(text.contains(before), text);
                  return text.replace(before, edit[1]);
                }),
        message);
  }

  @Test
  void partsThatDoNotFitAreRefused() {
    assertRefused(
        valid().put(WEIGHT, StoredType.U8, new byte[1023], 1023, 1), "expected 1024 bytes");
    assertRefused(valid().put(WEIGHT, StoredType.I32, new byte[1024], 256), "found I32");
    assertRefused(
        valid().put(WEIGHT + ".absmax", StoredType.U8, new byte[31], 31), "expected 32 elements");
    assertRefused(
        valid().put(WEIGHT + ".absmax", StoredType.F32, new byte[128], 32), "elements of U8");
    assertRefused(
        valid().put(WEIGHT + ".nested_absmax", StoredType.F32, new byte[8], 2), "expected 1 elem");
    assertRefused(valid().remove(WEIGHT + ".absmax"), "expected a tensor");
    assertRefused(valid().remove(WEIGHT + ".nested_absmax"), "expected 32 elements of F32");
    assertRefused(valid().remove(WEIGHT), "expected a tensor");
    assertRefused(
        valid().put(STATE, StoredType.U8, new byte[70_000], 70_000), "expected a short JSON text");
    assertRefused(valid().put(STATE, StoredType.F32, new byte[8], 2), "expected a short JSON");
    assertRefused(valid().put(STATE, "[".repeat(60_000)), "JSON");
  }

  /** Codes of another table would be decoded to other weights without a word. */
  @Test
  void otherTablesAreRefused() {
    float[] map = CodeTables.of(WeightFormat.NF4);
    map[3] += 1e-4f;
    assertRefused(
        valid().put(WEIGHT + ".quant_map", StoredType.F32, floats(map), 16), "table of codes");
    map[3] = Float.NaN;
    assertRefused(
        valid().put(WEIGHT + ".quant_map", StoredType.F32, floats(map), 16), "table of codes");
    float[] nested = CodeTables.dynamicSigned();
    Arrays.fill(nested, 0f);
    assertRefused(
        valid().put(WEIGHT + ".nested_quant_map", StoredType.F32, floats(nested), 256),
        "table of codes");
    assertRefused(
        valid().put(WEIGHT + ".quant_map", StoredType.F32, new byte[60], 15), "expected 16 elem");
  }

  @Test
  void int8PartsThatDoNotFitAreRefused() {
    String scales = "model.layers.0.self_attn.q_proj.SCB";
    String order = "model.layers.0.self_attn.q_proj.weight_format";
    StoredTensors tensors =
        new StoredTensors()
            .put(WEIGHT, StoredType.I8, new byte[8], 2, 4)
            .put(scales, StoredType.F32, new byte[8], 2);
    tensors.write(folder);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
      assertEquals(4, QuantizedTensors.of(checkpoint, WEIGHT).cols());
    }
    String module = "model.layers.0.self_attn.q_proj";
    assertRefusedInt8(tensors.put(order, StoredType.U8, new byte[] {2}), module, "row-major");
    assertRefusedInt8(tensors.put(order, StoredType.U8, new byte[4], 4), module, "expected 1 elem");
    tensors.put(order, StoredType.U8, new byte[1]);
    assertRefusedInt8(tensors.put(scales, StoredType.F32, new byte[12], 3), module, "2 elements");
    tensors.put(scales, StoredType.F32, new byte[8], 2);
    assertRefusedInt8(tensors.put(WEIGHT, StoredType.I8, new byte[8], 8), module, "[out, in]");
  }

  private void assertRefusedInt8(StoredTensors tensors, String... parts) {
    tensors.write(folder);
    try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
      InputException e =
          assertThrows(InputException.class, () -> QuantizedTensors.of(checkpoint, WEIGHT));
      for (String part : parts) {
        assertTrue(String.valueOf(e.getMessage()).contains(part), e.getMessage());
      }
    }
  }
}
