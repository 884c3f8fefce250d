// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.qlora4j.tests.support.CommandRuns.assertDone;
import static org.qlora4j.tests.support.CommandRuns.assertFixable;
import static org.qlora4j.tests.support.CommandRuns.run;

import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.qlora4j.checkpoint.ModelCheckpoint;
import org.qlora4j.checkpoint.StoredType;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceBuffer;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.KernelPack;
import org.qlora4j.kernels.WeightFormat;
import org.qlora4j.model.ModelConfig;
import org.qlora4j.model.WeightNames;
import org.qlora4j.quant.QuantizationConfig;
import org.qlora4j.quant.QuantizedWeight;
import org.qlora4j.quant.TrainedBase;
import org.qlora4j.tests.support.CommandRuns.Ran;
import org.qlora4j.tests.support.FixtureFiles;
import org.qlora4j.tests.support.Packs;
import org.qlora4j.tests.support.StoredTensors;

/** The command {@code generate}: the base that an adapter meets. */
class GenerateTest {
  /** A training on a base in 4 bits that no default names. */
  private static final String FP4_QLORA =
      "method: qlora\n"
          + "bnb_4bit_quant_type: fp4\n"
          + "blocksize: 4096\n"
          + "bnb_4bit_use_double_quant: false";

  /** A threshold that many columns of activations reach. */
  private static final float LOW = 0.25f;

  private final Path folder;
  private final Path model = FixtureFiles.project("examples/model");

  GenerateTest(@TempDir Path folder) {
    this.folder = folder;
  }

  private Path train(String more) throws IOException {
    return train(model, more);
  }

  private Path train(Path base, String more) throws IOException {
    Path config = folder.resolve("c.yaml");
    Files.writeString(
        config,
        """
        model: %s
        train_file: %s
        output_dir: %s
        sequence_length: 64
        lora_r: 4
        learning_rate: 3e-3
        per_device_train_batch_size: 2
        max_steps: 3
        %s
        """
            .formatted(
                base,
                FixtureFiles.project("examples/data/blog-reviews.jsonl"),
                folder.resolve("out"),
                more));
    Ran ran = assertDone(run("train", config));
    // The adapter's directory says how the base is held.
    assertTrue(ran.out().contains("./qlora4j generate "), ran.out());
    assertFalse(ran.out().contains("--quantize"), ran.out());
    return folder.resolve("out/adapter");
  }

  /** On the base as {@link #FP4_QLORA} trains on it, said in full. */
  private static Ran generateOnFp4(Path model, Path adapter) {
    return generate(
        model, "--adapter", adapter, "--quantize", "fp4", "--blocksize", 4096, "--no-double-quant");
  }

  private static Ran generate(Object... modelAndMore) {
    List<Object> arguments = new ArrayList<>(List.of("generate"));
    arguments.addAll(List.of(modelAndMore));
    arguments.addAll(List.of("--prompt", "\uc81c\ubaa9:", "--max-new-tokens", 40));
    return run(arguments.toArray());
  }

  /** Blocks of 4096 round enough for the texts of the two bases to part. */
  @Test
  void theBaseIsQuantizedAsTheAdapterWasTrained() throws IOException {
    Path adapter = train(FP4_QLORA);
    Ran unsaid = assertDone(generate(model, "--adapter", adapter));
    String line =
        "base: quantized to fp4 in blocks of 4096, as the adapter was trained; --quantize none";
    assertEquals(
        1, unsaid.err().lines().filter(each -> each.startsWith(line)).count(), unsaid.err());
    Ran said = assertDone(generateOnFp4(model, adapter));
    assertEquals(said.out(), unsaid.out());
    assertFalse(said.err().contains("as the adapter was trained"), said.err());

    // The user has the last word, and a base that is stored in 4 bits is what it is.
    Ran none = assertDone(generate(model, "--adapter", adapter, "--quantize", "none"));
    assertFalse(none.err().contains("as the adapter was trained"), none.err());
    assertNotEquals(said.out(), none.out());
    Path stored = folder.resolve("stored");
    assertDone(
        run("quantize", model, stored, "--type", "fp4", "--blocksize", 4096, "--no-double-quant"));
    Ran fromStored = assertDone(generate(stored, "--adapter", adapter));
    assertEquals(said.out(), fromStored.out());
    assertFalse(fromStored.err().contains("as the adapter was trained"), fromStored.err());

    assertFixable(
        generate(model, "--adapter", adapter, "--blocksize", 64), "--blocksize", "--quantize nf4");
    assertFixable(generate(model, "--no-double-quant"), "--no-double-quant", "--quantize nf4");
    assertFixable(
        generate(model, "--adapter", adapter, "--llm-int8-threshold", 6),
        "--llm-int8-threshold",
        "found a base that the adapter was trained on in fp4");

    // Without the file there is nothing to go by.
    Files.delete(adapter.resolve(TrainedBase.FILE));
    Ran unknown = assertDone(generate(model, "--adapter", adapter));
    assertEquals(none.out(), unknown.out());
    Files.writeString(adapter.resolve(TrainedBase.FILE), "{\"quantization\": 4}");
    assertFixable(generate(model, "--adapter", adapter), TrainedBase.FILE, "expected null, nf4");
    assertDone(generate(model, "--adapter", adapter, "--quantize", "none"));
  }

  /** With the PiSSA that was trained on it, a base in 4 bits is not the one the result is for. */
  @Test
  void aResultForTheOriginalBaseIsShownWithIt() throws IOException {
    Path adapter = train("method: qlora\ninit_lora_weights: pissa\nblocksize: 4096");
    assertEquals(new TrainedBase(null), TrainedBase.read(adapter));
    assertEquals(
        assertDone(generate(model, "--adapter", adapter, "--quantize", "none")).out(),
        assertDone(generate(model, "--adapter", adapter)).out());
  }

  /** The model in 4 bits, but for the projections down, which are dense again. */
  private Path mixed() {
    Path mixed = folder.resolve("mixed");
    assertDone(
        run("quantize", model, mixed, "--type", "fp4", "--blocksize", 4096, "--no-double-quant"));
    StoredTensors tensors = StoredTensors.read(mixed.resolve(ModelCheckpoint.SINGLE_FILE));
    StoredTensors original = StoredTensors.read(model.resolve(ModelCheckpoint.SINGLE_FILE));
    for (String name : List.copyOf(tensors.tensors().keySet())) {
      if (name.contains(".down_proj.weight")) {
        tensors.remove(name);
        StoredTensors.Tensor dense = original.tensors().get(name);
        if (dense != null) {
          tensors.put(name, dense.type(), dense.bytes(), dense.shape());
        }
      }
    }
    return tensors.write(mixed);
  }

  /** Training quantizes what is dense beside the stored codes; so does what comes after. */
  @Test
  void aBaseThatIsPartlyQuantizedIsRestored() throws IOException {
    Path mixed = mixed();
    Path adapter = train(mixed, FP4_QLORA);
    TrainedBase trained = new TrainedBase(new QuantizationConfig(WeightFormat.FP4, 4096, false));
    assertEquals(trained, TrainedBase.read(adapter));
    Ran unsaid = assertDone(generate(mixed, "--adapter", adapter));
    String line = "base: 4 of 28 linear weights quantized to fp4 in blocks of 4096, as the adapter";
    assertTrue(unsaid.err().contains(line), unsaid.err());
    Ran said = assertDone(generateOnFp4(mixed, adapter));
    assertEquals(said.out(), unsaid.out());
    Ran none = assertDone(generate(mixed, "--adapter", adapter, "--quantize", "none"));
    assertNotEquals(said.out(), none.out());

    // Codes of 4 bits are not those of a training in 8: all stays as it is.
    Files.writeString(adapter.resolve(TrainedBase.FILE), "{\"quantization\": \"int8\"}");
    Ran other = assertDone(generate(mixed, "--adapter", adapter));
    assertEquals(none.out(), other.out());
    assertFalse(other.err().contains("as the adapter was trained"), other.err());
  }

  /** What a training left dense beside stored codes is left so. */
  @Test
  void denseWeightsOfATrainingStayDense() throws IOException {
    Path mixed = mixed();
    Path adapter = train(mixed, "method: lora");
    assertEquals(new TrainedBase(null), TrainedBase.read(adapter));
    assertEquals(
        assertDone(generate(mixed, "--adapter", adapter, "--quantize", "none")).out(),
        assertDone(generate(mixed, "--adapter", adapter)).out());
  }

  /** The model with its linears as bitsandbytes stores them in 8 bits. */
  private Path inEightBits() throws IOException {
    Path stored = Files.createDirectory(folder.resolve("stored"));
    try (DirectoryStream<Path> files = Files.newDirectoryStream(model, "*.json")) {
      for (Path file : files) {
        Files.copy(file, stored.resolve(file.getFileName()));
      }
    }
    KernelPack pack = Packs.reference();
    StoredTensors tensors = StoredTensors.read(model.resolve(ModelCheckpoint.SINGLE_FILE));
    for (WeightNames.Module module : WeightNames.of(ModelConfig.read(model)).linears()) {
      StoredTensors.Tensor dense = tensors.get(module.weight());
      try (DeviceBuffer memory = DeviceBuffer.allocate(pack, dense.bytes().length)) {
        DeviceTensor values = DeviceTensor.of(memory, 0, DType.BF16, dense.shape());
        values.copyFrom(dense.bytes());
        try (QuantizedWeight made =
            QuantizedWeight.quantize(pack, values, QuantizationConfig.int8(0))) {
          tensors.put(module.weight(), StoredType.I8, made.codes().toBytes(), dense.shape());
          tensors.put(
              module.path() + ".SCB", StoredType.F32, made.absmax().toBytes(), module.rows());
        }
      }
    }
    return tensors.write(stored);
  }

  private static Ran sample(Object... modelAndMore) {
    List<Object> arguments = new ArrayList<>(List.of(modelAndMore));
    arguments.addAll(List.of("--temperature", 2));
    return generate(arguments.toArray());
  }

  /**
   * With a threshold that most columns reach, the products round otherwise than in 8 bits; drawn at
   * this temperature, the texts part.
   */
  @Test
  void outlierColumnsAreMultipliedAsInTraining() throws IOException {
    Path adapter = train("method: lora\nquantization: int8\nllm_int8_threshold: " + LOW);
    assertEquals(new TrainedBase(QuantizationConfig.int8(LOW)), TrainedBase.read(adapter));
    Ran unsaid = assertDone(sample(model, "--adapter", adapter));
    String line =
        "base: quantized to int8 with columns of activations from " + LOW + " on in 16 bits";
    assertTrue(unsaid.err().contains(line + ", as the adapter was trained"), unsaid.err());
    String with = unsaid.out();
    assertEquals(
        with,
        assertDone(
                sample(
                    model, "--adapter", adapter, "--quantize", "int8", "--llm-int8-threshold", LOW))
            .out());
    // The format alone does not change the threshold.
    assertEquals(with, assertDone(sample(model, "--adapter", adapter, "--quantize", "int8")).out());

    Ran without = assertDone(sample(model, "--adapter", adapter, "--llm-int8-threshold", 0));
    assertNotEquals(with, without.out());
    assertTrue(without.err().contains("base: quantized to int8, as the adapter"), without.err());
    assertEquals(
        without.out(),
        assertDone(
                sample(
                    model, "--adapter", adapter, "--quantize", "int8", "--llm-int8-threshold", 0))
            .out());

    // Activations in 32 bits have no columns apart, and say so.
    Ran exact = assertDone(sample(model, "--adapter", adapter, "--compute", "float32"));
    assertTrue(exact.err().contains("base: quantized to int8, as the adapter"), exact.err());

    // A base that is stored in 8 bits is what it is, but its threshold counts.
    Path stored = inEightBits();
    Ran fromStored = assertDone(sample(stored, "--adapter", adapter));
    assertEquals(with, fromStored.out());
    assertFalse(fromStored.err().contains("as the adapter was trained"), fromStored.err());
    assertEquals(
        without.out(),
        assertDone(sample(stored, "--adapter", adapter, "--llm-int8-threshold", 0)).out());
  }

  /** What has nothing to act on is refused, not passed over. */
  @Test
  void optionsOfAnotherFormatAreRefused() {
    String fourBit = "expected --quantize nf4 or fp4 with it, found --quantize ";
    for (String format : List.of("none", "int8", "fp8")) {
      assertFixable(
          generate(model, "--quantize", format, "--blocksize", 128),
          "--blocksize: " + fourBit + format);
      assertFixable(
          generate(model, "--quantize", format, "--no-double-quant"),
          "--no-double-quant: " + fourBit + format);
    }
    String int8 =
        "--llm-int8-threshold: needs an INT8 base (--quantize int8) and --compute bfloat16";
    for (Object threshold : List.of(0, 6)) {
      for (String format : List.of("none", "nf4", "fp8")) {
        assertFixable(
            generate(model, "--quantize", format, "--llm-int8-threshold", threshold),
            int8 + ", found --quantize " + format);
      }
      assertFixable(
          generate(model, "--llm-int8-threshold", threshold), int8 + ", found no --quantize");
    }
    assertFixable(
        generate(model, "--quantize", "int8", "--llm-int8-threshold", 6, "--compute", "float32"),
        int8 + ", found --compute float32");
    for (String wrong : List.of("-1", "NaN", "Infinity")) {
      assertFixable(
          generate(model, "--quantize", "int8", "--llm-int8-threshold=" + wrong),
          "--llm-int8-threshold: expected a number of at least 0, found");
    }
  }
}
