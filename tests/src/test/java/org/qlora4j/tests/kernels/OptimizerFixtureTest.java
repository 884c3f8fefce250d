// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.tests.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.qlora4j.checkpoint.SafetensorsFile;
import org.qlora4j.checkpoint.TensorSource;
import org.qlora4j.kernels.AdamW;
import org.qlora4j.kernels.AdamW8Bit;
import org.qlora4j.kernels.DType;
import org.qlora4j.kernels.DeviceTensor;
import org.qlora4j.kernels.FloatBits;
import org.qlora4j.kernels.Quantization4Bit;
import org.qlora4j.kernels.Quantization8Bit;
import org.qlora4j.tests.support.DeviceMemory;
import org.qlora4j.tests.support.FixtureTest;
import org.qlora4j.tests.support.Fixtures;
import org.qlora4j.tests.support.Tolerance;
import org.qlora4j.train.AdamWOptimizer;

/**
 * Twenty steps of AdamW against bitsandbytes, with moments in 32 bits and in 8, also with a NaN
 * among the gradients. bitsandbytes keeps 32-bit states of small tensors.
 *
 * <p>Where bitsandbytes has a rule that is not ours, the test applies that rule around our
 * operators, so that what is ours is still compared: a bf16 parameter is rounded after every step;
 * the CPU library's codes come from its table of 65,536 points, which this class has, while
 * dequantization and the update are ours. The rules of its CUDA kernel (emulated by the fixtures'
 * makers) differ from ours in ties and in the order of weight decay, by less than the tolerance;
 * what a NaN does there is not what it does here, so those elements are not compared.
 */
class OptimizerFixtureTest extends FixtureTest {
  private static final Pattern NAN = Pattern.compile("\\[(\\d+),(\\d+)\\]");
  private static final Pattern GRADIENTS = Pattern.compile("grads_\\w+");

  /** Entries of index.json that are figures over several files. */
  private static final String BOUNDARY = "boundary";

  private static final String DIFFERENCES = "differences";
  private static final String MAPS = "maps";

  private static final List<Quantization8Bit.Map> MAPS_OF_MOMENTS =
      List.of(Quantization8Bit.Map.DYNAMIC_SIGNED, Quantization8Bit.Map.DYNAMIC_UNSIGNED);

  OptimizerFixtureTest() {
    super("optim");
  }

  @Override
  protected List<String> names(Fixtures fixtures) {
    return fixtures.entries().stream().filter(name -> !name.startsWith("grads_")).toList();
  }

  @Override
  protected List<String> operators(String name) {
    if (name.equals(MAPS)) {
      return List.of("dequantize_8bit_blockwise");
    }
    if (isLibrary8Bit(name)) {
      return List.of("adamw", "dequantize_8bit_blockwise");
    }
    if (isOurs8Bit(name)) {
      return List.of("adamw_8bit");
    }
    return name.equals(DIFFERENCES) ? List.of("adamw", "adamw_8bit") : List.of("adamw");
  }

  /** Exact nearest codes, ties to the lower index: our rule. */
  private static boolean isExact8Bit(String name) {
    return name.startsWith("adamw8bit_exact_");
  }

  private static boolean isCuda8Bit(String name) {
    return name.startsWith("adamw8bit_cuda_rules_");
  }

  /** Codes by the library's table of 65,536 points. */
  private static boolean isLibrary8Bit(String name) {
    return name.startsWith("adamw8bit_cpu_library_") && !hasNan(name);
  }

  /** The same with a NaN among the gradients: its codes are not ours, but what a NaN does is. */
  private static boolean isLibrary8BitNan(String name) {
    return name.startsWith("adamw8bit_cpu_library_") && hasNan(name);
  }

  private static boolean isOurs8Bit(String name) {
    return isExact8Bit(name) || isCuda8Bit(name) || isLibrary8BitNan(name);
  }

  private static boolean hasNan(String name) {
    return name.endsWith("nan_grad");
  }

  @Override
  protected void check(Fixtures fixtures, String name, DeviceMemory memory) {
    switch (name) {
      case BOUNDARY -> boundary(fixtures);
      case DIFFERENCES -> differences(fixtures, memory);
      case MAPS -> maps(fixtures, memory);
      default -> {
        JsonNode entry = fixtures.index().path(name);
        try (SafetensorsFile file = fixtures.open(name)) {
          Start start = Start.of(fixtures, file, entry);
          if (isLibrary8Bit(name)) {
            stepsLibrary8Bit(file, name, entry, start, memory);
          } else if (file.find("absmax1") != null) {
            steps8Bit(file, name, entry, start, memory);
          } else {
            steps(file, name, entry, start, memory);
          }
        }
      }
    }
  }

  /**
   * Where the steps start.
   *
   * @param gradients [steps, n]
   * @param nan which elements had a NaN in some step
   */
  @SuppressWarnings("ArrayRecordComponent") // compared by nobody
  private record Start(int n, float[] parameters, float[] gradients, boolean[] nan, boolean bf16) {

    static Start of(Fixtures fixtures, SafetensorsFile file, JsonNode entry) {
      String text = entry.path("grads").asText();
      float[] gradients;
      String name = gradientsOf(entry);
      try (SafetensorsFile all = fixtures.open(name)) {
        gradients = all.tensor("grads").toFloats();
      }
      int n = gradients.length / entry.path("steps").asInt();
      boolean[] nan = new boolean[n];
      Matcher places = NAN.matcher(text);
      while (places.find()) {
        int element = Integer.parseInt(places.group(2));
        gradients[Integer.parseInt(places.group(1)) * n + element] = Float.NaN;
        nan[element] = true;
      }
      TensorSource own = file.find("p0");
      boolean bf16 = own != null && own.dtype() == DType.BF16;
      return new Start(
          n, own != null ? own.toFloats() : parametersFor(fixtures, name), gradients, nan, bf16);
    }

    private static String gradientsOf(JsonNode entry) {
      Matcher name = GRADIENTS.matcher(entry.path("grads").asText());
      return name.find() ? name.group() : "";
    }

    /** A file without parameters starts from those of the f32 files with the same gradients. */
    private static float[] parametersFor(Fixtures fixtures, String gradients) {
      for (Map.Entry<String, JsonNode> other : fixtures.index().properties()) {
        JsonNode p0 = other.getValue().path("tensors").path("p0");
        if (gradientsOf(other.getValue()).equals(gradients)
            && p0.path(0).asText().equals("float32")) {
          try (SafetensorsFile plain = fixtures.open(other.getKey())) {
            return plain.tensor("p0").toFloats();
          }
        }
      }
      throw new AssertionError("no file has the parameters that belong to " + gradients);
    }

    float[] gradient(int step) {
      return Arrays.copyOfRange(gradients, (step - 1) * n, step * n);
    }

    boolean anyNan() {
      for (boolean one : nan) {
        if (one) {
          return true;
        }
      }
      return false;
    }
  }

  /** From how many elements on states are in 8 bits. */
  private static void boundary(Fixtures fixtures) {
    JsonNode boundary = fixtures.index().path(BOUNDARY);
    fixtures.count(BOUNDARY);
    int compared = 0;
    for (Map.Entry<String, JsonNode> one : boundary.properties()) {
      Matcher elements = Pattern.compile("numel_(\\d+)_state_dtype").matcher(one.getKey());
      assertTrue(elements.matches(), "unknown figure " + one.getKey());
      boolean eightBit = Long.parseLong(elements.group(1)) >= AdamWOptimizer.SMALLEST_8BIT;
      assertEquals(one.getValue().asText(), eightBit ? "uint8" : "float32", one.getKey());
      compared++;
    }
    assertTrue(compared > 0, "no figure of " + BOUNDARY);
  }

  /**
   * How far 8-bit states move the parameters from 32-bit ones: the mean, which no single jump
   * decides, within 2 %, as 0.5 % of the codes may differ and each moves its element by a part of
   * the largest jump.
   */
  private void differences(Fixtures fixtures, DeviceMemory memory) {
    double expected =
        fixtures.index().path(DIFFERENCES).path("exact_8bit_vs_32bit").path("mean").asDouble();
    assertTrue(expected > 0, "no figure exact_8bit_vs_32bit");
    fixtures.count(DIFFERENCES);
    String exact =
        names(fixtures).stream().filter(n -> isExact8Bit(n) && !hasNan(n)).findFirst().orElse("");
    JsonNode entry = fixtures.index().path(exact);
    Start start;
    try (SafetensorsFile file = fixtures.open(exact)) {
      start = Start.of(fixtures, file, entry);
    }
    DeviceTensor in8Bit = memory.of(DType.F32, start.parameters(), start.n());
    DeviceTensor in32Bit = memory.of(DType.F32, start.parameters(), start.n());
    AdamW8Bit.Slot eight = slot8Bit(entry, start, in8Bit, memory);
    AdamW.Slot full = slot(entry, start, in32Bit, memory);
    for (int step = 1; step <= entry.path("steps").asInt(); step++) {
      eight.gradient().copyFrom(start.gradient(step));
      full.gradient().copyFrom(start.gradient(step));
      AdamW8Bit.step(
          memory.pack(), options(entry), entry.path("blocksize").asInt(), step, 1, List.of(eight));
      AdamW.step(memory.pack(), options(entry), step, 1, List.of(full));
    }
    float[] a = in8Bit.toFloats();
    float[] b = in32Bit.toFloats();
    double sum = 0;
    for (int i = 0; i < a.length; i++) {
      sum += Math.abs(a[i] - b[i]);
    }
    assertEquals(expected, sum / a.length, 0.02 * expected, "mean of |8-bit - 32-bit|");
  }

  /** The tables of codes, read back through the operator: one block whose maximum is 1. */
  private void maps(Fixtures fixtures, DeviceMemory memory) {
    try (SafetensorsFile file = fixtures.open(MAPS)) {
      for (TensorSource table : file.tensors().values()) {
        Quantization8Bit.Map map =
            table.name().contains("unsigned")
                ? Quantization8Bit.Map.DYNAMIC_UNSIGNED
                : Quantization8Bit.Map.DYNAMIC_SIGNED;
        compare(memory, MAPS, table.name(), table.toFloats(), table(map, memory), Tolerance.EXACT);
      }
    }
  }

  private static DeviceTensor table(Quantization8Bit.Map map, DeviceMemory memory) {
    byte[] codes = new byte[256];
    for (int i = 0; i < codes.length; i++) {
      codes[i] = (byte) i;
    }
    DeviceTensor values = memory.empty(DType.F32, 256);
    Quantization8Bit.dequantize(
        memory.pack(),
        map,
        256,
        memory.of(DType.U8, codes, 256),
        memory.of(DType.F32, new float[] {1}, 1),
        values);
    return values;
  }

  private void steps(
      SafetensorsFile file, String name, JsonNode entry, Start start, DeviceMemory memory) {
    DeviceTensor parameter = memory.of(DType.F32, start.parameters(), start.n());
    AdamW.Slot slot = slot(entry, start, parameter, memory);
    int steps = entry.path("steps").asInt();
    for (int step = 1; step <= steps; step++) {
      slot.gradient().copyFrom(start.gradient(step));
      AdamW.step(memory.pack(), options(entry), step, 1, List.of(slot));
      TensorSource expected = file.find("p_after_step" + step);
      if (start.bf16()) {
        // The peer's bf16 parameter: f32 arithmetic, rounded after every step.
        parameter.copyFrom(roundedToBf16(parameter.toFloats()));
        if (expected != null) {
          // An f32 difference of 3e-6 decides some roundings; a step of the parameter is larger
          // than its rounding, so the two meet again or stay one step of bf16 (2^-7) apart.
          compare(
              memory,
              name,
              "bf16 parameter",
              expected.toFloats(),
              parameter,
              new Tolerance(0x1p-7, 0, "one step of bf16"));
        }
      } else if (expected != null) {
        compareAbsolute(memory, name, "parameter", expected.toFloats(), parameter);
      }
    }
    if (!start.bf16()) {
      compareAbsolute(
          memory, name, "first moment", file.tensor("state1").toFloats(), slot.firstMoment());
      compareAbsolute(
          memory, name, "second moment", file.tensor("state2").toFloats(), slot.secondMoment());
    }
  }

  private static float[] roundedToBf16(float[] values) {
    float[] rounded = new float[values.length];
    for (int i = 0; i < values.length; i++) {
      rounded[i] = FloatBits.roundToBf16(values[i]);
    }
    return rounded;
  }

  private static AdamW.Slot slot(
      JsonNode entry, Start start, DeviceTensor parameter, DeviceMemory memory) {
    return new AdamW.Slot(
        parameter,
        memory.empty(DType.F32, start.n()),
        memory.zeros(DType.F32, start.n()),
        memory.zeros(DType.F32, start.n()),
        (float) entry.path("weight_decay").asDouble());
  }

  private static AdamW8Bit.Slot slot8Bit(
      JsonNode entry, Start start, DeviceTensor parameter, DeviceMemory memory) {
    long blocks = Quantization4Bit.blocks(start.n(), entry.path("blocksize").asInt());
    AdamW8Bit.Moment[] moments = new AdamW8Bit.Moment[2];
    for (int m = 0; m < 2; m++) {
      moments[m] =
          new AdamW8Bit.Moment(memory.zeros(DType.U8, start.n()), memory.zeros(DType.F32, blocks));
    }
    return new AdamW8Bit.Slot(
        parameter,
        memory.empty(DType.F32, start.n()),
        moments[0],
        moments[1],
        (float) entry.path("weight_decay").asDouble());
  }

  /**
   * The fixtures' number is 3e-6 absolute; the states, which are larger, get the same share of
   * their largest magnitude.
   */
  private void compareAbsolute(
      DeviceMemory memory, String name, String output, float[] expected, DeviceTensor actual) {
    double largest = 1;
    for (float value : expected) {
      if (Float.isFinite(value)) {
        largest = Math.max(largest, Math.abs(value));
      }
    }
    double allowed = output.equals("parameter") ? 3e-6 / largest : 3e-6;
    compare(memory, name, output, expected, actual, Tolerance.ofLargest(allowed));
  }

  private static AdamW.Options options(JsonNode entry) {
    return new AdamW.Options(
        entry.path("lr").asDouble(),
        entry.path("beta1").asDouble(),
        entry.path("beta2").asDouble(),
        entry.path("eps").asDouble());
  }

  private void steps8Bit(
      SafetensorsFile file, String name, JsonNode entry, Start start, DeviceMemory memory) {
    int blockSize = entry.path("blocksize").asInt();
    DeviceTensor parameter = memory.of(DType.F32, start.parameters(), start.n());
    AdamW8Bit.Slot slot = slot8Bit(entry, start, parameter, memory);
    String where = memory.pack().name() + ", " + name;
    int steps = entry.path("steps").asInt();
    for (int step = 1; step <= steps; step++) {
      slot.gradient().copyFrom(start.gradient(step));
      AdamW8Bit.step(memory.pack(), options(entry), blockSize, step, 1, List.of(slot));
      TensorSource expected = file.find("p_after_step" + step);
      if (expected != null) {
        checkParameters(where, expected.toFloats(), parameter.toFloats(), start, name);
      }
    }
    List<AdamW8Bit.Moment> moments = List.of(slot.firstMoment(), slot.secondMoment());
    for (int m = 0; m < 2; m++) {
      String suffix = Integer.toString(m + 1);
      if (!(isCuda8Bit(name) && start.anyNan())) {
        double beta = entry.path(m == 0 ? "beta1" : "beta2").asDouble();
        absmax(file, name, suffix, moments.get(m).absmax(), isCuda8Bit(name) ? beta : 0, memory);
      }
      checkCodes(where, codes(file, suffix), moments.get(m).codes().toBytes(), start, name);
    }
  }

  /**
   * The fixtures' number is 1e-5 of the element. The rules of the CUDA kernel take 1 - beta from
   * beta rounded to f32, by which every moment is off.
   */
  private void absmax(
      SafetensorsFile file,
      String name,
      String suffix,
      DeviceTensor actual,
      double roundedBeta,
      DeviceMemory memory) {
    double factor = Math.abs((1 - (double) (float) roundedBeta) / (1 - roundedBeta) - 1);
    compare(
        memory,
        name,
        "absmax" + suffix,
        file.tensor("absmax" + suffix).toFloats(),
        actual,
        new Tolerance(1e-5 + factor, 0, "fixture: 1e-5 of the element"));
  }

  /**
   * Codes by the library's table: our dequantization and our update in f32, and between steps the
   * library's choice of codes, so that its states are shown to be read and continued here.
   */
  private void stepsLibrary8Bit(
      SafetensorsFile file, String name, JsonNode entry, Start start, DeviceMemory memory) {
    int blockSize = entry.path("blocksize").asInt();
    DeviceTensor parameter = memory.of(DType.F32, start.parameters(), start.n());
    AdamW.Slot slot = slot(entry, start, parameter, memory);
    List<DeviceTensor> moments = List.of(slot.firstMoment(), slot.secondMoment());
    LibraryCodes[] stored = new LibraryCodes[2];
    String where = memory.pack().name() + ", " + name;
    int steps = entry.path("steps").asInt();
    for (int step = 1; step <= steps; step++) {
      slot.gradient().copyFrom(start.gradient(step));
      AdamW.step(memory.pack(), options(entry), step, 1, List.of(slot));
      TensorSource expected = file.find("p_after_step" + step);
      if (expected != null) {
        checkParameters(where, expected.toFloats(), parameter.toFloats(), start, name);
      }
      for (int m = 0; m < 2; m++) {
        Quantization8Bit.Map map = MAPS_OF_MOMENTS.get(m);
        float[] values = moments.get(m).toFloats();
        stored[m] = LibraryCodes.of(values, blockSize, table(map, memory).toFloats());
        Quantization8Bit.dequantize(
            memory.pack(),
            map,
            blockSize,
            memory.of(DType.U8, stored[m].codes(), start.n()),
            memory.of(DType.F32, stored[m].absmax(), stored[m].absmax().length),
            moments.get(m));
      }
    }
    for (int m = 0; m < 2; m++) {
      String suffix = Integer.toString(m + 1);
      float[] maxima = stored[m].absmax();
      absmax(file, name, suffix, memory.of(DType.F32, maxima, maxima.length), 0, memory);
      checkCodes(where, codes(file, suffix), stored[m].codes(), start, name);
    }
  }

  /**
   * What the CPU library stores: x / absmax goes to the nearest of 65,536 points from -1 to 1, and
   * that point to its nearest code.
   */
  @SuppressWarnings("ArrayRecordComponent") // compared by nobody
  private record LibraryCodes(byte[] codes, float[] absmax) {
    private static final int POINTS = 65_536;

    static LibraryCodes of(float[] values, int blockSize, float[] map) {
      byte[] codes = new byte[values.length];
      float[] absmax = new float[(values.length + blockSize - 1) / blockSize];
      for (int i = 0; i < values.length; i++) {
        absmax[i / blockSize] = Math.max(absmax[i / blockSize], Math.abs(values[i]));
      }
      for (int i = 0; i < values.length; i++) {
        float largest = absmax[i / blockSize];
        // In f32 throughout, as there: the roundings decide which point it is.
        float x = largest == 0 ? 0 : values[i] * (1 / largest);
        float point =
            -1 + 2 * (float) Math.floor((x + 1) * 0.5f * (POINTS - 1) + 0.5f) / (POINTS - 1);
        int code = 0;
        while (code < 255 && point > (map[code] + map[code + 1]) * 0.5f) {
          code++;
        }
        codes[i] = (byte) code;
      }
      return new LibraryCodes(codes, absmax);
    }
  }

  /**
   * The fixtures' number is 1e-5 absolute for 99.5 % of the elements; where a code of a second
   * moment fell to 0, a parameter may jump. NaN must meet NaN, except with the rules of the CUDA
   * kernel, which leaves such a parameter as it was.
   */
  private static void checkParameters(
      String where, float[] expected, float[] actual, Start start, String name) {
    int close = 0;
    for (int i = 0; i < expected.length; i++) {
      boolean skipped = isCuda8Bit(name) && start.nan()[i];
      if (!skipped) {
        assertEquals(Float.isNaN(expected[i]), Float.isNaN(actual[i]), where + " parameter " + i);
      }
      if (skipped || Float.isNaN(expected[i]) || Math.abs(expected[i] - actual[i]) <= 1e-5f) {
        close++;
      }
    }
    if (!isLibrary8BitNan(name)) {
      assertAtLeast(where + ": parameters within 1e-5", close, 0.995 * expected.length);
    }
  }

  /** 99.5 % of the codes equal, the rest off by one. */
  private static void checkCodes(
      String where, byte[] expected, byte[] actual, Start start, String name) {
    int equal = 0;
    int compared = 0;
    for (int i = 0; i < start.n(); i++) {
      // Of the library's codes with a NaN, those of the elements that were NaN: they decayed from
      // code 0. Of the CUDA kernel's, all others.
      if (isLibrary8BitNan(name) ? !start.nan()[i] : isCuda8Bit(name) && start.nan()[i]) {
        continue;
      }
      int difference = (expected[i] & 0xff) - (actual[i] & 0xff);
      assertTrue(Math.abs(difference) <= 1, where + " code " + i + " is off by " + difference);
      equal += difference == 0 ? 1 : 0;
      compared++;
    }
    if (isLibrary8BitNan(name)) {
      assertTrue(compared > 0, where + ": no element was NaN");
    } else {
      assertAtLeast(where + ": equal codes", equal, 0.995 * compared);
    }
  }

  private static byte[] codes(SafetensorsFile file, String suffix) {
    TensorSource source = file.tensor("state" + suffix);
    byte[] codes = new byte[Math.toIntExact(source.elements())];
    source.read(0, ByteBuffer.wrap(codes));
    return codes;
  }

  private static void assertAtLeast(String what, int found, double least) {
    assertTrue(found >= least, () -> what + ": expected at least " + least + ", found " + found);
  }
}
