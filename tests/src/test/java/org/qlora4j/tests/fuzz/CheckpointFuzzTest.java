// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.fuzz;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.qlora4j.tests.support.Inputs.assertRefused;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.PeftAdapterFile;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.common.InputException;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.CodeTables;
import org.qlora4j.quant.QuantizedTensors;
import org.qlora4j.quant.TrainedBase;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Fuzz;
import org.qlora4j.tests.support.SmallModel;

/**
 * Weights and their configurations: safetensors, config.json, adapter_config.json, the index of
 * shards, the quantization state of 4-bit weights.
 *
 * <p>Allocation: JSON becomes a tree of some 100 bytes a node, several times over where a reader
 * copies it; a factor of 1,000 for a byte and 4 MB for buffers leaves no room for a length that was
 * believed.
 */
class CheckpointFuzzTest {
  private static final long BUFFERS = 4 << 20;
  private static final long PER_BYTE = 1000;

  private final Path folder;

  CheckpointFuzzTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }

  private static byte[] framed(byte[] header, int data) {
    return ByteBuffer.allocate(8 + header.length + data)
        .order(ByteOrder.LITTLE_ENDIAN)
        .putLong(header.length)
        .put(header)
        .array();
  }

  private static final List<String> HEADERS =
      List.of(
          "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
              + "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]},"
              + "\"__metadata__\":{\"format\":\"pt\"}}",
          "{\"x\":{\"dtype\":\"U8\",\"shape\":[32],\"data_offsets\":[0,32]}}",
          "{\"e\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[0,0]},"
              + "\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},"
              + "\"h\":{\"dtype\":\"F16\",\"shape\":[3,1,4],\"data_offsets\":[8,32]}}");

  private static void readAll(Path file) {
    try (SafetensorsFile read = SafetensorsFile.open(file)) {
      for (TensorSource tensor : read.tensors().values()) {
        tensor.toBytes();
        if (tensor.storedType() != StoredType.F64) {
          tensor.elements();
        }
      }
    }
  }

  @Test
  void safetensorsHeaders() {
    Path file = folder.resolve("t.safetensors");
    Fuzz.of("safetensors headers", BUFFERS, PER_BYTE)
        .run(
            HEADERS.stream().map(CheckpointFuzzTest::bytes).toList(),
            header -> {
              Files.write(file, framed(header, 32));
              readAll(file);
            });
  }

  @Test
  void safetensorsFiles() {
    Path file = folder.resolve("t.safetensors");
    Fuzz.of("safetensors files", BUFFERS, PER_BYTE)
        .run(
            HEADERS.stream().map(header -> framed(bytes(header), 32)).toList(),
            input -> {
              Files.write(file, input);
              readAll(file);
            });
  }

  /** Configurations of the project, and of published models where they are. */
  private static List<byte[]> configs(String suffix) throws IOException {
    List<byte[]> configs = new ArrayList<>();
    configs.add(Files.readAllBytes(FixtureFiles.project("examples/model/config.json")));
    configs.add(bytes(SmallModel.llama(300, 64, 2, 4, 2, 96)));
    for (Path root : List.of(Fixtures.root().resolve("models"), Fixtures.data())) {
      if (Files.isDirectory(root)) {
        try (Stream<Path> files = Files.walk(root, 2)) {
          for (Path file : files.filter(f -> f.toString().endsWith(suffix)).sorted().toList()) {
            configs.add(Files.readAllBytes(file));
          }
        }
      }
    }
    return configs;
  }

  private static boolean isTaken(Path file) {
    try {
      readConfig(file);
      return true;
    } catch (InputException e) {
      return false;
    }
  }

  private static void readConfig(Path file) {
    ModelConfig config = ModelConfig.readFile(file);
    // What a model of that shape would have by names; small models only, as a large one is no
    // fault.
    if (config.layers() <= 64) {
      WeightNames.of(config).parameters();
    }
  }

  @Test
  void modelConfigs() throws IOException {
    Path file = folder.resolve("config.json");
    List<byte[]> taken = new ArrayList<>();
    for (byte[] config : configs("config.json")) {
      Files.write(file, config);
      // An architecture that is not there is no seed.
      if (isTaken(file)) {
        taken.add(config);
      }
    }
    Fuzz.of("config.json", BUFFERS, PER_BYTE)
        .run(
            taken,
            input -> {
              Files.write(file, input);
              readConfig(file);
            });
  }

  @Test
  void adapterConfigs() throws IOException {
    Path source = FixtureFiles.project("tests/src/test/resources/peft_adapter");
    Files.copy(
        source.resolve(PeftAdapterFile.WEIGHTS_FILE), folder.resolve(PeftAdapterFile.WEIGHTS_FILE));
    Fuzz.of("adapter_config.json", BUFFERS, PER_BYTE)
        .run(
            List.of(Files.readAllBytes(source.resolve(PeftAdapterFile.CONFIG_FILE))),
            input -> {
              Files.write(folder.resolve(PeftAdapterFile.CONFIG_FILE), input);
              PeftAdapterFile.open(folder).close();
            });
  }

  /** What is taken is written again and read as the same. */
  @Test
  void trainedBases() throws IOException {
    Path again = Files.createDirectory(folder.resolve("again"));
    Fuzz.of(TrainedBase.FILE, BUFFERS, PER_BYTE)
        .run(
            List.of(
                bytes("{\"quantization\": null}"),
                bytes("{\"quantization\": \"fp8\"}"),
                bytes("{\"quantization\": \"int8\", \"llm_int8_threshold\": 6.0}"),
                bytes("{\"quantization\": \"int8\", \"llm_int8_threshold\": -0.0}"),
                bytes("{\"quantization\": \"nf4\", \"blocksize\": 64, \"double_quant\": true}"),
                bytes("{\"quantization\": \"fp4\", \"blocksize\": 32, \"double_quant\": false}")),
            input -> {
              Files.write(folder.resolve(TrainedBase.FILE), input);
              TrainedBase read = TrainedBase.read(folder);
              Objects.requireNonNull(read).write(again);
              assertEquals(read, TrainedBase.read(again));
            });
  }

  /** A file that does not say how the base was held is none. */
  @Test
  void trainedBasesThatSayNothingAreRefused() throws IOException {
    for (String text : List.of("{}", "{\"quantization\": \"null\"}", "{\"quantization\": {}}")) {
      Files.writeString(folder.resolve(TrainedBase.FILE), text);
      assertRefused(() -> TrainedBase.read(folder), TrainedBase.FILE, "quantization");
    }
  }

  @Test
  void shardIndexes() throws IOException {
    Files.write(folder.resolve("one.safetensors"), framed(bytes(HEADERS.get(0)), 32));
    Files.write(folder.resolve("two.safetensors"), framed(bytes(HEADERS.get(1)), 32));
    Fuzz.of("model.safetensors.index.json", BUFFERS, PER_BYTE)
        .run(
            List.of(
                bytes(
                    "{\"metadata\":{\"total_size\":64},\"weight_map\":{\"a\":\"one.safetensors\","
                        + "\"b\":\"one.safetensors\",\"x\":\"two.safetensors\"}}")),
            input -> {
              Files.write(folder.resolve(ModelCheckpoint.INDEX_FILE), input);
              try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
                checkpoint.tensors().forEach(TensorSource::toBytes);
              }
            });
  }

  /** The JSON state beside the codes of a 4-bit weight [32, 64], with and without nesting. */
  @Test
  void quantizationStates() {
    Fuzz.of("quantization states", BUFFERS, PER_BYTE)
        .run(
            List.of(
                bytes(
                    "{\"quant_type\":\"nf4\",\"blocksize\":64,\"dtype\":\"bfloat16\","
                        + "\"shape\":[32,64],\"nested_blocksize\":256,"
                        + "\"nested_dtype\":\"float32\",\"nested_offset\":0.25}")),
            state -> {
              String header =
                  "{\"w\":{\"dtype\":\"U8\",\"shape\":[1024,1],\"data_offsets\":[0,1024]},"
                      + "\"w.absmax\":{\"dtype\":\"U8\",\"shape\":[32],\"data_offsets\":[1024,1056]},"
                      + "\"w.nested_absmax\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1056,1060]},"
                      + "\"w.nested_quant_map\":{\"dtype\":\"F32\",\"shape\":[256],\"data_offsets\":[1060,2084]},"
                      + "\"w.quant_map\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[2084,2148]},"
                      + "\"w.quant_state.bitsandbytes__nf4\":{\"dtype\":\"U8\",\"shape\":["
                      + state.length
                      + "],\"data_offsets\":[2148,"
                      + (2148 + state.length)
                      + "]}}";
              byte[] file = framed(bytes(header), 2148 + state.length);
              System.arraycopy(state, 0, file, file.length - state.length, state.length);
              ByteBuffer tables =
                  ByteBuffer.wrap(file, file.length - state.length - 1088, 1088)
                      .order(ByteOrder.LITTLE_ENDIAN);
              for (float value : CodeTables.dynamicSigned()) {
                tables.putFloat(value);
              }
              for (float value : CodeTables.of(WeightFormat.NF4)) {
                tables.putFloat(value);
              }
              Files.write(folder.resolve(ModelCheckpoint.SINGLE_FILE), file);
              try (ModelCheckpoint checkpoint = ModelCheckpoint.open(folder)) {
                QuantizedTensors.of(checkpoint, "w");
              }
            });
  }
}
